"""Generate and GenerateStream of the real model: text, tokens, reasons, usage, logprobs, stops, seeds."""

import math

import pytest

from client import GREEDY, reason

CHAT = {"chat": [("user", "What is the capital of Germany?")]}
STORY = "Once upon a time, in a village at the edge of the forest,"


def test_chat_is_answered_with_sense(client):
    answer = client.generate(CHAT, sampling=GREEDY, stopping={"max_tokens": 32})
    assert "Berlin" in answer.text
    assert reason(answer) == "EOS"
    assert answer.matched_token_id == answer.token_ids[-1] == 2
    assert "<|im_end|>" not in answer.text


@pytest.mark.parametrize("number", [0, 7, 15, 16, 27])
def test_greedy_continuation_is_the_float32_reference_s(client, recorded, number):
    """Token for token, up to the first position where the reference itself was nearly undecided."""
    sequence = recorded[number]
    stopping = {"max_tokens": len(sequence["greedy"]), "ignore_eos": True}
    ours = list(client.generate(sequence["prompt"], sampling=GREEDY, stopping=stopping).token_ids)
    assert len(ours) == len(sequence["greedy"])
    for at, (token, expected) in enumerate(zip(ours, sequence["greedy"])):
        if token != expected:
            assert (
                sequence["margin"][at] < 0.5
            ), f"prompt {number}, position {at}: {token}, float32 says {expected}"
            break


def test_text_prompt_is_tokenized_as_the_reference_s_was(client, recorded):
    for sequence in recorded:
        if "chat" in sequence:
            prompt = {"chat": [("user", sequence["chat"])]}
        else:
            prompt = sequence["text"]
        answer = client.generate(prompt, sampling=GREEDY, stopping={"max_tokens": 1})
        assert answer.usage.prompt_tokens == len(sequence["prompt"]), prompt


def test_stream_and_unary_say_the_same(client):
    options = dict(sampling=GREEDY, stopping={"max_tokens": 24})
    unary, stream = client.generate(STORY, **options), client.stream(STORY, **options)
    assert (stream.text, stream.token_ids) == (unary.text, list(unary.token_ids))
    assert reason(stream) == reason(unary) == "MAX_TOKENS"
    assert stream.finished.usage.completion_tokens == unary.usage.completion_tokens == 24
    assert len([t for t in stream.texts if t]) > 1, "a stream comes in pieces"


def test_started_echoes_the_effective_parameters(client):
    stream = client.stream(STORY, stopping={"max_tokens": 2})
    sampling = stream.started.effective.sampling
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (1, 1, 1)
    assert sampling.HasField("seed")
    assert stream.started.effective.stopping.max_tokens == 2
    assert stream.started.prompt_tokens == stream.finished.usage.prompt_tokens > 0
    assert stream.started.request_id
    assert stream.started.model == "SmolLM2-135M-Instruct.Q4_1"


def test_trailers_carry_request_id_usage_and_timings(client):
    stream = client.stream(STORY, stopping={"max_tokens": 2})
    assert stream.trailers["x-request-id"] == stream.started.request_id
    assert [k for k in stream.trailers if k.startswith("nibble-")]


def test_timings_add_up(client):
    timings = client.generate(
        STORY, sampling=GREEDY, stopping={"max_tokens": 8, "ignore_eos": True}
    ).timings
    assert 0 <= timings.queue_seconds <= timings.first_token_seconds <= timings.total_seconds
    assert timings.prefill_seconds > 0 and timings.decode_seconds > 0
    assert timings.first_token_seconds + timings.decode_seconds == pytest.approx(
        timings.total_seconds, abs=0.2
    )


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others(client):
    def draw(seed):
        sampling = {"temperature": 1.2, "top_p": 0.95, "seed": seed}
        return list(
            client.generate(
                STORY, sampling=sampling, stopping={"max_tokens": 24, "ignore_eos": True}
            ).token_ids
        )

    first = draw(7)
    assert draw(7) == first
    assert draw(8) != first


def test_a_drawn_seed_reproduces_its_completion(client):
    options = dict(stopping={"max_tokens": 16, "ignore_eos": True})
    first = client.generate(STORY, **options)
    again = client.generate(STORY, sampling={"seed": first.effective.sampling.seed}, **options)
    assert list(again.token_ids) == list(first.token_ids)


def test_min_tokens_holds_back_the_end_and_ignore_eos_passes_it(client):
    answer = client.generate(CHAT, sampling=GREEDY, stopping={"max_tokens": 64, "min_tokens": 20})
    assert 2 not in answer.token_ids[:19]
    answer = client.generate(CHAT, sampling=GREEDY, stopping={"max_tokens": 20, "ignore_eos": True})
    assert len(answer.token_ids) == 20 and 2 in answer.token_ids


def test_max_tokens_zero_scores_the_prompt_only(client, recorded):
    ids = recorded[16]["prompt"]
    answer = client.generate(ids, stopping={"max_tokens": 0}, response={"prompt_logprobs": 3})
    assert (answer.text, list(answer.token_ids)) == ("", [])
    assert [p.token_id for p in answer.prompt_logprobs] == ids[1:]
    for entry in answer.prompt_logprobs:
        top = [t.logprob for t in entry.top]
        assert len(top) == 3 and top == sorted(top, reverse=True) and entry.logprob <= top[0] <= 0


def test_logprobs_have_one_entry_a_token_and_belong_to_it(client):
    options = dict(sampling=GREEDY, stopping={"max_tokens": 12}, response={"logprobs": 5})
    answer = client.generate(STORY, **options)
    assert [e.token_id for e in answer.logprobs] == list(answer.token_ids)
    for entry in answer.logprobs:
        assert len(entry.top) == 5
        assert entry.top[0].token_id == entry.token_id, "greedy takes the likeliest"
        assert entry.top[0].logprob == entry.logprob <= 0
        assert sum(math.exp(t.logprob) for t in entry.top) <= 1.0001
    assert [e.token_id for e in client.stream(STORY, **options).logprobs] == list(answer.token_ids)
    assert not client.generate(STORY, stopping={"max_tokens": 2}).logprobs


def test_prompt_scores_agree_with_scores_while_generating(client):
    """Teacher forcing and decoding are one computation: same tokens, nearly the same log-probabilities."""
    answer = client.generate(
        [504, 3575, 282],
        sampling=GREEDY,
        stopping={"max_tokens": 10, "ignore_eos": True},
        response={"logprobs": 0},
    )
    ids = [504, 3575, 282] + list(answer.token_ids)
    scored = client.generate(
        ids, stopping={"max_tokens": 0}, response={"prompt_logprobs": 0}, cache_salt=b"scores"
    )
    for while_decoding, teacher_forced in zip(answer.logprobs, scored.prompt_logprobs[2:]):
        assert teacher_forced.token_id == while_decoding.token_id
        assert teacher_forced.logprob == pytest.approx(while_decoding.logprob, abs=0.05)


def test_stop_text_is_found_across_tokens_and_never_leaked(client):
    options = dict(sampling=GREEDY, stopping={"max_tokens": 40, "ignore_eos": True})
    full = client.generate(STORY, **options).text
    for start, length in ((11, 2), (20, 9), (37, 17)):  # within a word, across words
        stop = full[start : start + length]
        stream = client.stream(
            STORY, sampling=GREEDY, stopping={**options["stopping"], "stop": [stop, "never seen"]}
        )
        expected = full[: full.index(stop)]
        assert reason(stream) == "STOP_SEQUENCE" and stream.finished.matched_stop == stop
        assert stream.text == expected, "nothing of the stop text, nothing missing before it"
        kept = client.generate(
            STORY,
            sampling=GREEDY,
            stopping={**options["stopping"], "stop": [stop], "include_stop": True},
        )
        assert kept.text == expected + stop


def test_text_that_only_begins_like_a_stop_is_delivered(client):
    options = {"max_tokens": 20, "ignore_eos": True}
    full = client.generate(STORY, sampling=GREEDY, stopping=options).text
    almost = [full[-3:] + "~never~", full[5:9] + "~never~"]
    assert client.stream(STORY, sampling=GREEDY, stopping={**options, "stop": almost}).text == full


def test_stop_token_ids_end_the_completion(client):
    options = {"max_tokens": 20, "ignore_eos": True}
    ids = list(client.generate(STORY, sampling=GREEDY, stopping=options).token_ids)
    stop = ids[6]
    answer = client.generate(STORY, sampling=GREEDY, stopping={**options, "stop_token_ids": [stop]})
    assert list(answer.token_ids) == ids[: ids.index(stop) + 1]
    assert reason(answer) == "STOP_TOKEN" and answer.matched_token_id == stop


def test_logit_bias_and_allowed_ids_decide_what_is_drawn(client):
    allowed = [504, 282, 260]
    answer = client.generate(
        STORY,
        sampling={"allowed_token_ids": allowed},
        stopping={"max_tokens": 12, "ignore_eos": True},
    )
    assert set(answer.token_ids) <= set(allowed)
    answer = client.generate(
        STORY,
        sampling={**GREEDY, "logit_bias": {504: 100.0}},
        stopping={"max_tokens": 4, "ignore_eos": True},
    )
    assert list(answer.token_ids) == [504] * 4


def test_echo_puts_the_prompt_first(client):
    plain = client.generate(STORY, sampling=GREEDY, stopping={"max_tokens": 8})
    assert (
        client.generate(
            STORY, sampling=GREEDY, stopping={"max_tokens": 8}, response={"echo": True}
        ).text
        == STORY + plain.text
    )


def test_delta_interval_makes_fewer_deltas(client):
    options = dict(sampling=GREEDY, stopping={"max_tokens": 24, "ignore_eos": True})
    every, eighth = client.stream(STORY, **options), client.stream(
        STORY, response={"delta_interval_tokens": 8}, **options
    )
    assert eighth.text == every.text
    assert len(eighth.texts) <= 6


def test_a_context_that_fills_up_ends_the_completion_well(client):
    answer = client.generate([504] * 2040, sampling=GREEDY, stopping={"ignore_eos": True})
    assert reason(answer) == "CONTEXT_LENGTH"
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens in (2048, 2049)


def test_a_time_limit_ends_the_completion_well(client):
    answer = client.generate(STORY, time_limit_seconds=0.2, stopping={"ignore_eos": True})
    assert reason(answer) == "DEADLINE"
    assert answer.usage.completion_tokens == len(answer.token_ids) < 2000

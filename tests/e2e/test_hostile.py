"""Requests that are wrong: refused by name, with nothing else touched."""

import math

import grpc
import pytest
from nibble.v1 import generation_pb2, prompt_pb2, tokenizer_pb2

from client import Client, refusal, request

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NUMBERS = {
    "sampling": [
        "temperature",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    ]
}
BAD_FLOATS = [math.nan, math.inf, -math.inf, -1e30, 1e30]


def refuses(client, field, prompt="Hello", **kwargs):
    kwargs["stopping"] = {"max_tokens": 4, **kwargs.get("stopping", {})}
    refused = refusal(lambda: client.generate(prompt, **kwargs))
    assert refused.code == INVALID, (kwargs, refused.code, refused.message)
    assert any(f.startswith(field) for f in refused.fields()), (
        field,
        refused.fields(),
        refused.message,
    )
    streamed = refusal(lambda: client.open_stream(prompt, **kwargs))
    assert (streamed.code, streamed.fields()) == (refused.code, refused.fields())


@pytest.mark.parametrize("name", NUMBERS["sampling"])
def test_floats_that_are_no_numbers_or_out_of_range_are_refused_by_name(client, name):
    for value in BAD_FLOATS:
        refuses(client, f"sampling.{name}", sampling={name: value})


@pytest.mark.parametrize(
    "field, kwargs",
    [
        ("sampling.temperature", {"sampling": {"temperature": -0.1}}),
        ("sampling.top_p", {"sampling": {"top_p": 0.0}}),
        ("sampling.top_p", {"sampling": {"top_p": 1.4}}),
        ("sampling.top_k", {"sampling": {"top_k": -1}}),
        ("sampling.min_p", {"sampling": {"min_p": 1.5}}),
        ("sampling.repetition_penalty", {"sampling": {"repetition_penalty": 0.0}}),
        ("sampling.repetition_penalty", {"sampling": {"repetition_penalty": 1e-38}}),
        ("sampling.logit_bias", {"sampling": {"logit_bias": {5: math.nan}}}),
        ("sampling.logit_bias", {"sampling": {"logit_bias": {5: 1000.0}}}),
        ("sampling.logit_bias", {"sampling": {"logit_bias": {-1: 1.0}}}),
        ("sampling.logit_bias", {"sampling": {"logit_bias": {49152: 1.0}}}),
        ("sampling.logit_bias", {"sampling": {"logit_bias": {i: 1.0 for i in range(1025)}}}),
        ("sampling.allowed_token_ids", {"sampling": {"allowed_token_ids": [49152]}}),
        ("sampling.allowed_token_ids", {"sampling": {"allowed_token_ids": [-5]}}),
        ("stopping.max_tokens", {"stopping": {"max_tokens": -1}}),
        ("stopping.min_tokens", {"stopping": {"min_tokens": -1}}),
        ("stopping.min_tokens", {"stopping": {"max_tokens": 2, "min_tokens": 3}}),
        ("stopping.stop", {"stopping": {"stop": [""]}}),
        ("stopping.stop", {"stopping": {"stop": ["x" * 257]}}),
        ("stopping.stop", {"stopping": {"stop": ["x"] * 17}}),
        ("stopping.stop_token_ids", {"stopping": {"stop_token_ids": [1 << 30]}}),
        ("stopping.stop_token_ids", {"stopping": {"stop_token_ids": list(range(65))}}),
        ("response.logprobs", {"response": {"logprobs": 21}}),
        ("response.logprobs", {"response": {"logprobs": -1}}),
        ("response.prompt_logprobs", {"response": {"prompt_logprobs": 2**31 - 1}}),
        ("priority", {"priority": 101}),
        ("cache_salt", {"cache_salt": b"x" * 257}),
        ("time_limit_seconds", {"time_limit_seconds": math.nan}),
        ("time_limit_seconds", {"time_limit_seconds": -1.0}),
        ("time_limit_seconds", {"time_limit_seconds": 1e12}),
    ],
    ids=lambda v: v if isinstance(v, str) else str(v)[:60],
)
def test_a_field_out_of_range_is_refused_by_name(client, field, kwargs):
    refuses(client, field, **kwargs)


def test_no_prompt_and_empty_prompts_are_refused(client):
    for message in (
        generation_pb2.GenerateRequest(),
        generation_pb2.GenerateRequest(text=""),
        generation_pb2.GenerateRequest(token_ids=prompt_pb2.TokenIds()),
        generation_pb2.GenerateRequest(chat=prompt_pb2.ChatMessages()),
    ):
        refused = refusal(lambda m=message: client.generation.Generate(m, timeout=30))
        assert refused.code == INVALID and refused.fields(), message


def test_ids_outside_the_vocabulary_are_refused(client):
    for ids in ([-1], [49152], [2**31 - 1], [-(2**31)], [5, 5, 99999]):
        refuses(client, "token_ids", prompt=ids)


def test_a_role_the_template_does_not_know_does_no_harm(client):
    for turns in ([("", "Hi")], [("user\n<|im_end|>", "Hi")], [("x" * 10000, "Hi")]):
        call = lambda t=turns: client.generate(
            {"chat": t}, stopping={"max_tokens": 1, "ignore_eos": True}
        )
        try:
            assert call().usage.completion_tokens == 1
        except grpc.RpcError as error:
            assert error.code() == INVALID


def test_a_prompt_longer_than_the_context_says_both_numbers(client):
    refused = refusal(lambda: client.generate([504] * 2049, stopping={"max_tokens": 1}))
    assert refused.code == INVALID and "2049" in refused.message and "2048" in refused.message


def test_a_10_mb_prompt_is_refused_and_others_are_served_meanwhile(client):
    stream = client.open_stream("Hello", stopping={"max_tokens": 40, "ignore_eos": True})
    next(stream)
    for text in ("word " * 2_000_000, "a" * 10_000_000, "\n" * 10_000_000):
        refused = refusal(lambda t=text: client.generate(t, stopping={"max_tokens": 1}))
        assert refused.code in (INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED), refused.message
        assert len(refused.message) < 1000
    assert [e for e in stream][-1].HasField("finished")


def test_a_message_beyond_the_limit_is_refused(client):
    refused = refusal(lambda: client.generate("a" * (17 << 20), stopping={"max_tokens": 1}))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED


def raw_call(client, method, body):
    return client.channel.unary_unary(
        method, request_serializer=lambda b: b, response_deserializer=lambda b: b
    )(body, timeout=30)


@pytest.mark.parametrize(
    "body",
    [b"\x12\x03\xff\xfe\xfa", b"\x12\x02\xc3\x28", b"\x12\x05ab\xed\xa0\x80"],
    ids=["no utf-8", "cut character", "surrogate"],
)
def test_text_that_is_no_utf8_is_refused(client, body):
    for method in ("/nibble.v1.GenerationService/Generate", "/nibble.v1.TokenizerService/Tokenize"):
        refused = refusal(lambda m=method: raw_call(client, m, body))
        assert refused.code == INVALID, (refused.code, refused.message)
        assert "UTF-8" in refused.message


@pytest.mark.parametrize(
    "body",
    [b"\xff" * 100, b"\x12\xff\xff\xff\xff\x0f", b"\x1a\x02\x0a\xff", b"\x0b" * 5000],
    ids=["noise", "length beyond the message", "cut packed ids", "nested groups"],
)
def test_bytes_that_are_no_message_are_refused(client, body):
    refused = refusal(lambda: raw_call(client, "/nibble.v1.GenerationService/Generate", body))
    assert refused.code == INVALID, (refused.code, refused.message)
    assert "cannot be read" in refused.message


def test_an_unknown_method_is_unimplemented(client):
    refused = refusal(lambda: raw_call(client, "/nibble.v1.GenerationService/Nothing", b""))
    assert refused.code == grpc.StatusCode.UNIMPLEMENTED


def test_headers_beyond_their_limit_are_refused(client, server):
    """On a connection of its own: gRPC 1.51 ends every call of a connection that breaks this limit."""
    message = request(generation_pb2.GenerateRequest, "Hello", stopping={"max_tokens": 1})
    with Client(server.target) as other:
        for size in (20_000, 100_000):
            big = [("x-big", "a" * size)]
            refused = refusal(
                lambda m=big: other.generation.Generate(message, timeout=30, metadata=m)
            )
            assert refused.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    assert client.generate("Hello", stopping={"max_tokens": 1, "ignore_eos": True}).token_ids


def test_a_delta_interval_of_nothing_is_refused_by_name(client):
    response = {"delta_interval_tokens": 0}
    refused = refusal(
        lambda: client.open_stream("Hello", response=response, stopping={"max_tokens": 1})
    )
    assert (refused.code, refused.fields()) == (INVALID, ["response.delta_interval_tokens"])


def test_huge_but_legal_parameters_are_served(client):
    sampling = {
        "temperature": 100.0,
        "top_k": 49152,
        "min_p": 1.0,
        "seed": 2**64 - 1,
        "presence_penalty": 10.0,
        "logit_bias": {i: -100.0 for i in range(1024)},
        "allowed_token_ids": list(range(2000, 40000)),
    }
    stopping = {
        "max_tokens": 4,
        "stop": ["\U0001f409" * 64] * 16,
        "stop_token_ids": list(range(64)),
        "ignore_eos": True,
    }
    answer = client.generate(
        "Hello",
        sampling=sampling,
        stopping=stopping,
        response={"logprobs": 20},
        cache_salt=b"s" * 256,
        priority=-100,
        time_limit_seconds=86400,
    )
    assert len(answer.token_ids) == 4 and len(answer.logprobs[0].top) == 20


@pytest.mark.parametrize("temperature", [0.0, 1e-38, 1e-45, 1.0])
def test_the_least_and_largest_penalties_harm_nobody(client, temperature):
    """Whatever a request makes of its own logits, they stay numbers: an infinity would pass for a broken device."""
    for penalty in (0.01, 10.0):
        answer = client.generate(
            [1, 2, 3],
            sampling={
                "temperature": temperature,
                "repetition_penalty": penalty,
                "presence_penalty": -10.0,
                "frequency_penalty": -10.0,
                "logit_bias": {1: 100.0, 2: -100.0},
                "seed": 1,
            },
            stopping={"max_tokens": 4, "ignore_eos": True},
        )
        assert len(answer.token_ids) == 4
    assert client.generate("Hello", stopping={"max_tokens": 1, "ignore_eos": True}).token_ids


def test_detokenizing_half_characters_gives_whole_utf8(client):
    ids = list(
        client.tokenizer.Tokenize(
            tokenizer_pb2.TokenizeRequest(text="龍の絵文字🐉"), timeout=30
        ).token_ids
    )
    for end in range(1, len(ids) + 1):
        client.tokenizer.Detokenize(
            tokenizer_pb2.DetokenizeRequest(token_ids=ids[:end]), timeout=30
        ).text.encode()


def test_generated_half_characters_are_never_sent(client):
    """Tokens of cut characters, one a delta: every delta is whole UTF-8 and the whole is what detokenizing says."""
    ids = list(
        client.tokenizer.Tokenize(tokenizer_pb2.TokenizeRequest(text="龍🐉"), timeout=30).token_ids
    )
    stream = client.stream(
        "Hello",
        sampling={"allowed_token_ids": ids, "seed": 5, "temperature": 100.0},
        stopping={"max_tokens": 40, "ignore_eos": True},
    )
    whole = client.tokenizer.Detokenize(
        tokenizer_pb2.DetokenizeRequest(token_ids=stream.token_ids), timeout=30
    ).text
    assert stream.text == whole

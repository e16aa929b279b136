"""Many at once: batched equals solo, the prefix cache changes no token, random cancels leave nothing behind."""

import concurrent.futures
import random

import grpc

from client import GREEDY, Client

SEED = 20261123


def test_batched_is_solo_token_for_token(client, recorded):
    """16 different prompts, greedy and seeded, one after another and then all together."""

    def job(number, salt):
        sampling = GREEDY if number % 2 else {"temperature": 0.9, "top_k": 50, "seed": number}
        # Lengths differ so that sequences join and leave the batch at different steps.
        stopping = {"max_tokens": 12 + 3 * (number % 5), "ignore_eos": True}
        return list(
            client.generate(
                recorded[number]["prompt"], sampling=sampling, stopping=stopping, cache_salt=salt
            ).token_ids
        )

    solo = [job(i, b"solo") for i in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda i: job(i, b"together"), range(16)))
    assert together == solo


def test_a_long_prompt_beside_running_streams_changes_no_token(client, recorded):
    """Chunked prefill shares steps with decode rows."""
    long = [token for s in recorded[:12] for token in s["greedy"]]
    options = dict(sampling=GREEDY, stopping={"max_tokens": 48, "ignore_eos": True})
    solo = [
        list(client.generate(recorded[i]["prompt"], cache_salt=b"a", **options).token_ids)
        for i in range(3)
    ]
    alone = list(client.generate(long, cache_salt=b"a", **options).token_ids)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        streams = [
            pool.submit(client.generate, recorded[i]["prompt"], cache_salt=b"b", **options)
            for i in range(3)
        ]
        beside = pool.submit(client.generate, long, cache_salt=b"b", **options)
        assert [list(s.result().token_ids) for s in streams] == solo
        assert list(beside.result().token_ids) == alone


def test_prefix_cache_gives_the_same_tokens_and_says_how_many_it_knew(client, recorded):
    prompt = [token for s in recorded[:5] for token in s["greedy"]]
    options = dict(sampling=GREEDY, stopping={"max_tokens": 12, "ignore_eos": True})
    cold = client.generate(prompt, cache_salt=b"first", **options)
    warm = client.generate(prompt, cache_salt=b"first", **options)
    longer = client.generate(prompt + [504, 3575], cache_salt=b"first", **options)
    other = client.generate(prompt, cache_salt=b"second", **options)
    assert cold.usage.cached_tokens == 0
    assert len(prompt) // 2 < warm.usage.cached_tokens < len(prompt)
    assert longer.usage.cached_tokens >= warm.usage.cached_tokens
    assert other.usage.cached_tokens == 0, "another salt shares nothing"
    assert list(warm.token_ids) == list(cold.token_ids) == list(other.token_ids)


def test_200_random_cancels_leave_no_block_and_no_request(client, server, recorded):
    rng = random.Random(SEED)
    print("seed", SEED)

    def one(number, events):
        call = client.open_stream(
            recorded[number % 30]["prompt"], stopping={"max_tokens": 64, "ignore_eos": True}
        )
        try:
            for _ in range(events):
                next(call)
        except (StopIteration, grpc.RpcError):
            pass
        call.cancel()

    plans = [(i, rng.choice([0, 0, 1, 2, 3, 5])) for i in range(200)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda plan: one(*plan), plans))
    load = client.wait_idle()
    assert (load.blocks_in_use, load.open_requests) == (0, 0)
    assert client.generate(
        [504, 3575, 282], stopping={"max_tokens": 2, "ignore_eos": True}
    ).token_ids


def test_memory_for_a_few_serves_many_by_preemption(serve, recorded):
    """A cache of about 1,400 tokens under 16 sequences of 100 to 160: some lose their blocks, none loses a token."""
    server = serve(kv_cache_mib=32, max_context=1024)
    options = dict(sampling=GREEDY, stopping={"max_tokens": 96, "ignore_eos": True})
    with Client(server.target) as client:

        def job(i):
            return client.generate(recorded[i]["prompt"], cache_salt=b"%d" % i, **options)

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(job, range(16)))
        assert all(len(a.token_ids) == 96 for a in answers)
        preempted = [i for i, a in enumerate(answers) if a.timings.preemptions]
        assert len(preempted) == 0 or server.metric("nibble_preemptions_total") > 0
        for i in (preempted or [0])[:3]:
            assert list(job(i).token_ids) == list(
                answers[i].token_ids
            ), "recomputed is not what was computed"
        client.wait_idle()

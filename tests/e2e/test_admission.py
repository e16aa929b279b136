"""Full: refused early, with what a client needs to try again."""

import grpc
import pytest

from client import Client, refusal
from nibble_process import NibbleServer, wait_until

LONG = {"max_tokens": 1900, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(binary, model, tmp_path_factory):
    server = NibbleServer(
        binary,
        model,
        tmp_path_factory.mktemp("small"),
        max_running=1,
        max_waiting=2,
        max_queued_prompt_tokens=1500,
    )
    yield server
    server.stop()


def check_full(refused):
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED, refused.message
    retry = refused.details["RetryInfo"].retry_delay
    assert retry.seconds + retry.nanos / 1e9 > 0
    assert refused.details["QuotaFailure"].violations[0].subject
    assert int(refused.trailers["grpc-retry-pushback-ms"]) > 0


def test_a_full_queue_refuses_with_retry_info_quota_failure_and_pushback(small):
    with Client(small.target) as client:
        before = small.metric("nibble_admission_rejections_total")
        running = [client.open_stream("Once upon a time", stopping=LONG)]
        next(running[0])
        running += [client.open_stream("Once upon a time", stopping=LONG) for _ in range(2)]
        wait_until(lambda: client.load().waiting == 2, "two to wait")
        check_full(refusal(lambda: client.generate("One more", stopping={"max_tokens": 1})))
        check_full(refusal(lambda: client.open_stream("One more", stopping={"max_tokens": 1})))
        assert small.metric("nibble_admission_rejections_total") == before + 2
        for call in running:
            call.cancel()
        client.wait_idle()
        assert (
            client.generate("Room again", stopping={"max_tokens": 1}).usage.completion_tokens == 1
        )


def test_queued_prompt_tokens_are_bounded(small):
    with Client(small.target) as client:
        running = client.open_stream("Once upon a time", stopping=LONG)
        next(running)
        queued = client.open_stream([504] * 1400, stopping={"max_tokens": 1})
        wait_until(lambda: client.load().waiting == 1, "one to wait")
        check_full(refusal(lambda: client.generate([504] * 1400, stopping={"max_tokens": 1})))
        running.cancel()
        queued.cancel()
        client.wait_idle()

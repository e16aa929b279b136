"""Leaving early, at every stage: queued, prefilling, decoding. Blocks come back and the error says where it was."""

import grpc
import pytest

from client import GREEDY, Client, Refusal
from nibble_process import NibbleServer, wait_until

LONG = {"max_tokens": 1900, "ignore_eos": True}


def timed_out(client, prompt, milliseconds, **kwargs):
    """The server's own DEADLINE_EXCEEDED. The deadline goes as a bare grpc-timeout header: set on the call, the
    client's clock would usually ring first and hide the server's details."""
    call = client.open_stream(
        prompt, timeout=None, metadata=[("grpc-timeout", f"{milliseconds}m")], **kwargs
    )
    events = []
    with pytest.raises(grpc.RpcError) as error:
        for event in call:
            events.append(event.WhichOneof("event"))
    return Refusal(error.value), events


def stage(refused):
    assert refused.code == grpc.StatusCode.DEADLINE_EXCEEDED, refused.message
    return refused.details["ErrorInfo"].metadata["stage"]


@pytest.fixture(scope="module")
def narrow(binary, model, tmp_path_factory):
    """One sequence at a time, so that the second waits; a context long enough to be slow to prefill."""
    server = NibbleServer(
        binary,
        model,
        tmp_path_factory.mktemp("narrow"),
        max_running=1,
        max_waiting=8,
        max_context=8192,
        kv_cache_mib=192,
    )
    yield server
    server.stop()


@pytest.fixture
def narrow_client(narrow):
    with Client(narrow.target) as client:
        yield client
        client.wait_idle()


def test_cancel_mid_stream_frees_everything(client, server):
    before = server.metric("nibble_requests_finished_total")
    call = client.open_stream("Once upon a time", stopping=LONG)
    next(call), next(call)
    assert client.load().blocks_in_use > 0
    call.cancel()
    client.wait_idle()
    wait_until(
        lambda: server.metric("nibble_requests_finished_total") == before + 1,
        "the cancel to be counted",
    )
    assert 'code="CANCELLED"' in server.metrics_text()


def test_cancel_while_queued(narrow_client):
    running = narrow_client.open_stream("Once upon a time", stopping=LONG)
    next(running)
    queued = narrow_client.open_stream("In the beginning", stopping=LONG)
    wait_until(lambda: narrow_client.load().waiting == 1, "the second to wait")
    queued.cancel()
    wait_until(lambda: narrow_client.load().waiting == 0, "the queue to be empty")
    assert narrow_client.load().running == 1
    running.cancel()


def test_cancel_while_prefilling(narrow_client):
    call = narrow_client.open_stream([504, 282] * 4000, stopping={"max_tokens": 8})
    wait_until(lambda: narrow_client.load().running == 1, "the prompt to be scheduled")
    call.cancel()
    narrow_client.wait_idle()


def test_deadline_in_the_queue(narrow_client):
    running = narrow_client.open_stream("Once upon a time", stopping={**LONG, "max_tokens": 8000})
    next(running)
    refused, events = timed_out(narrow_client, "In the beginning", 300, stopping=LONG)
    running.cancel()
    assert stage(refused) == "queued" and events == []


def test_deadline_in_prefill(narrow_client):
    refused, events = timed_out(
        narrow_client, [504, 282] * 4000, 250, stopping={"max_tokens": 8}, cache_salt=b"slow"
    )
    assert stage(refused) == "prefill" and "delta" not in events


def test_deadline_in_decode(narrow_client):
    refused, events = timed_out(
        narrow_client,
        "Once upon a time",
        700,
        stopping={**LONG, "max_tokens": 8000},
        sampling=GREEDY,
    )
    assert stage(refused) == "decode" and "delta" in events


def test_deadline_of_a_unary_call(narrow_client):
    with pytest.raises(grpc.RpcError) as error:
        narrow_client.generate(
            "Once upon a time", timeout=0.3, stopping={**LONG, "max_tokens": 8000}
        )
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

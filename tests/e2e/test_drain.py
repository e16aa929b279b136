"""SIGTERM: readiness off, nobody new, nobody lost, exit 0; a second one does not wait."""

import concurrent.futures
import signal
import subprocess

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client import GREEDY, Client, Streamed, reason, refusal
from nibble_process import wait_until

ENDLESS = {"max_tokens": 1900, "ignore_eos": True}


def start_streams(client, count, stopping):
    """Streams of which each has said its first word, and the rest of each as a future."""
    calls = [
        client.open_stream([504, 282, 260 + i], sampling=GREEDY, stopping=stopping)
        for i in range(count)
    ]
    firsts = [[next(call), next(call)] for call in calls]
    pool = concurrent.futures.ThreadPoolExecutor(count)
    return [pool.submit(Streamed, _Replayed(first, call)) for first, call in zip(firsts, calls)]


class _Replayed:
    """Events already taken from a call, then the others."""

    def __init__(self, first, call):
        self._first, self._call = first, call

    def __iter__(self):
        yield from self._first
        yield from self._call

    def trailing_metadata(self):
        return self._call.trailing_metadata()


def wait_logged(server, event):
    wait_until(lambda: f'"{event}"' in server.log(), event)


def test_sigterm_with_16_streams_loses_none_and_exits_0(serve):
    server = serve(drain_timeout="60s")
    with Client(server.target) as client:
        streams = start_streams(client, 16, {"max_tokens": 80, "ignore_eos": True})
        server.terminate()
        wait_logged(server, "draining")
        refused = refusal(lambda: client.generate("Too late", stopping={"max_tokens": 1}))
        assert refused.code == grpc.StatusCode.UNAVAILABLE, refused.message
        with Client(f"127.0.0.1:{server.admin}") as operator:
            health = health_pb2_grpc.HealthStub(operator.channel).Check(
                health_pb2.HealthCheckRequest(), timeout=30
            )
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        done = [s.result(timeout=120) for s in streams]
    assert [(reason(s), len(s.token_ids)) for s in done] == [("MAX_TOKENS", 80)] * 16
    assert server.wait() == 0, server.log()[-3000:]


def test_clients_are_sent_elsewhere_while_calls_go_on(serve):
    server = serve(drain_timeout="600s")
    with Client(server.target) as client, Client(server.target) as newcomer:
        calls = [client.open_stream([504, 282, 260], stopping=ENDLESS) for _ in range(4)]
        for call in calls:
            next(call)
        server.terminate()
        wait_logged(server, "turned_away")
        refused = refusal(lambda: newcomer.generate("Too late", stopping={"max_tokens": 1}))
        assert refused.code == grpc.StatusCode.UNAVAILABLE, refused.message
        for call in calls:
            assert next(call).WhichOneof("event") == "delta"
            call.cancel()
    assert server.wait() == 0, server.log()[-3000:]


def test_past_the_drain_timeout_streams_end_as_drained_and_keep_their_text(serve):
    server = serve(drain_timeout="500ms")
    with Client(server.target) as client:
        streams = start_streams(client, 4, ENDLESS)
        server.terminate()
        done = [s.result(timeout=60) for s in streams]
    assert [reason(s) for s in done] == ["DRAINED"] * 4
    assert all(s.text and s.finished.usage.completion_tokens == len(s.token_ids) for s in done)
    assert server.wait() == 0, server.log()[-3000:]


def test_a_second_sigterm_exits_at_once(serve):
    server = serve(drain_timeout="600s")
    with Client(server.target) as client:
        start_streams(client, 2, ENDLESS)
        server.terminate()
        wait_logged(server, "draining")
        server.terminate()
        assert server.wait(20) in (128 + signal.SIGTERM, -signal.SIGTERM)


def test_whoever_reads_the_log_may_leave_first(serve):
    """The next line raised SIGPIPE, which ended the process and every call."""
    server = serve(stderr=subprocess.PIPE)
    server.process.stderr.close()  # as `serve 2>&1 | tee` once Ctrl-C has ended tee
    with Client(server.target) as client:
        streams = start_streams(client, 2, {"max_tokens": 40, "ignore_eos": True})
        client.generate("A call that ends is a line", stopping={"max_tokens": 1})
        server.terminate()
        assert [len(s.result(timeout=60).token_ids) for s in streams] == [40, 40]
    assert server.wait() == 0


def test_sigint_of_an_idle_server_exits_0(serve):
    server = serve()
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0, server.log()[-3000:]


def test_admin_drain_is_a_sigterm(serve):
    from nibble.v1 import admin_pb2

    server = serve(drain_timeout="60s")
    with Client(server.target) as client, Client(f"127.0.0.1:{server.admin}") as operator:
        streams = start_streams(client, 2, {"max_tokens": 40, "ignore_eos": True})
        answer = operator.admin.Drain(admin_pb2.DrainRequest(), timeout=30)
        assert answer.open_requests >= 1 and answer.drain_timeout_seconds == 60
        assert [len(s.result(timeout=60).token_ids) for s in streams] == [40, 40]
    assert server.wait() == 0, server.log()[-3000:]

"""/metrics: complete, clean, and its sums agree."""

import re
import shutil
import subprocess

import grpc
import pytest

from client import refusal
from nibble_process import wait_until

NAMES = """requests_running requests_waiting kv_cache_usage_ratio cache_config_info time_to_first_token_seconds
inter_token_latency_seconds time_per_output_token_seconds request_duration_seconds queue_time_seconds
prefill_time_seconds decode_time_seconds engine_step_seconds prompt_tokens_total generation_tokens_total
cached_prompt_tokens_total recomputed_tokens_total batch_tokens batch_sequences requests_started_total
requests_finished_total preemptions_total grpc_server_handling_seconds engine_steps_total
engine_last_step_timestamp_seconds startup_phase_seconds weights_bytes kv_cache_bytes build_info""".split()


def busy(client):
    """One of each outcome: answered, streamed, refused, cancelled, expired."""
    client.generate("Hello", stopping={"max_tokens": 4, "ignore_eos": True})
    client.stream("Hello", stopping={"max_tokens": 4, "ignore_eos": True})
    refusal(lambda: client.generate("Hello", sampling={"top_p": 1.4}))
    call = client.open_stream("Hello", stopping={"max_tokens": 1000, "ignore_eos": True})
    next(call)
    call.cancel()
    refused = refusal(
        lambda: client.generate(
            "Hello", timeout=0.15, stopping={"max_tokens": 1900, "ignore_eos": True}
        )
    )
    assert refused.code == grpc.StatusCode.DEADLINE_EXCEEDED
    client.wait_idle()


def test_every_promised_metric_is_there(client, server):
    busy(client)
    families = set(re.findall(r"^# TYPE (\S+) ", server.metrics_text(), re.M))
    assert {f"nibble_{name}" for name in NAMES} <= families


def test_started_is_the_sum_of_finished(client, server):
    busy(client)

    def settled():
        return server.metric("nibble_requests_started_total") == server.metric(
            "nibble_requests_finished_total"
        )

    wait_until(settled, "every started request to be finished")
    assert server.metric("nibble_requests_running") == server.metric("nibble_requests_waiting") == 0
    assert server.metric("nibble_kv_cache_usage_ratio") == 0


def test_tokens_and_first_tokens_are_counted(client, server):
    names = (
        "nibble_generation_tokens_total",
        "nibble_prompt_tokens_total",
        "nibble_time_to_first_token_seconds_count",
        "nibble_inter_token_latency_seconds_count",
    )
    before = [server.metric(name) for name in names]
    answer = client.generate(
        "One two three four", stopping={"max_tokens": 11, "ignore_eos": True}, cache_salt=b"m"
    )
    client.wait_idle()
    wait_until(
        lambda: server.metric(names[0]) == before[0] + 11, "the generated tokens to be counted"
    )
    after = [server.metric(name) for name in names]
    assert after[1] == before[1] + answer.usage.prompt_tokens
    assert after[2] == before[2] + 1
    assert after[3] == before[3] + 10


def test_no_metric_has_a_label_of_a_request(client, server):
    busy(client)
    labels = set(re.findall(r'[{,](\w+)="', server.metrics_text()))
    assert not labels & {"request_id", "prompt", "user", "peer"}
    assert len(server.metrics_text().splitlines()) < 3000


def test_promtool_finds_nothing(client, server):
    if not shutil.which("promtool"):
        pytest.skip("no promtool on the PATH: .ci/promtool brings it into .tools/bin")
    busy(client)
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=server.metrics_text(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_vllm_alias_exports_what_routers_read(serve):
    text = serve(metrics_alias="vllm").metrics_text()
    for name in (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:cache_config_info",
    ):
        assert re.search(rf"^{name}[ {{]", text, re.M), name
    assert re.search(r"^vllm:(gpu|kv)_cache_usage_perc[ {]", text, re.M)

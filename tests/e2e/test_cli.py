"""The other subcommands of the binary: their JSON, their exit codes, their agreement with the server."""

import json
import os
import pty
import select
import struct
import subprocess

import pytest

from conftest import MODEL_NAME, ROOT
from nibble_process import START_SECONDS, clean_environment, run

CHAT = "What is the capital of Germany?"


def ok_json(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_generate_prints_text_locally_and_remotely(binary, model, server):
    common = ["--chat", CHAT, "--max-tokens", "24", "--temperature", "0"]
    local = run(binary, "generate", "--model", model, *common)
    remote = run(binary, "generate", "--server", server.target, *common)
    assert local.returncode == remote.returncode == 0, local.stderr + remote.stderr
    assert "Berlin" in local.stdout and local.stdout == remote.stdout


def test_generate_json_has_the_promised_keys_and_agrees_with_the_server(binary, model, server):
    common = [
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        "8",
        "--temperature",
        "0.8",
        "--seed",
        "3",
        "--logprobs",
        "2",
        "--prompt-logprobs",
        "1",
        "--ignore-eos",
        "--output",
        "json",
    ]
    local = ok_json(run(binary, "generate", "--model", model, *common))
    remote = ok_json(run(binary, "generate", "--server", server.target, *common))
    for answer in (local, remote):
        assert {
            "text",
            "token_ids",
            "finish_reason",
            "usage",
            "timings",
            "logprobs",
            "prompt_logprobs",
        } <= set(answer)
        assert (
            answer["finish_reason"] == "max_tokens"
            and len(answer["token_ids"]) == len(answer["logprobs"]) == 8
        )
        assert answer["prompt_logprobs"][0] is None
        assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
        for entry in answer["logprobs"] + answer["prompt_logprobs"][1:]:
            assert set(entry) == {"token_id", "logprob", "top"} and set(entry["top"][0]) == {
                "token_id",
                "logprob",
            }
    assert local["token_ids"] == remote["token_ids"] and local["text"] == remote["text"]


def test_max_tokens_zero_scores(binary, model, recorded):
    ids = recorded[27]["prompt"]
    answer = ok_json(
        run(
            binary,
            "generate",
            "--model",
            model,
            "--token-ids",
            ",".join(map(str, ids)),
            "--max-tokens",
            "0",
            "--prompt-logprobs",
            "1",
            "--output",
            "json",
        )
    )
    assert (
        answer["token_ids"] == []
        and [p and p["token_id"] for p in answer["prompt_logprobs"]] == [None] + ids[1:]
    )


def test_the_exact_path_is_the_float32_reference_token_for_token(binary, model, recorded):
    """--cpu-activations=f32 against numpy; only a position the reference itself left open may differ."""
    for sequence in (recorded[1], recorded[17]):
        answer = ok_json(
            run(
                binary,
                "generate",
                "--model",
                model,
                "--token-ids",
                ",".join(map(str, sequence["prompt"])),
                "--max-tokens",
                "64",
                "--temperature",
                "0",
                "--ignore-eos",
                "--logprobs",
                "0",
                "--cpu-activations",
                "f32",
                "--output",
                "json",
            )
        )
        for at, expected in enumerate(sequence["greedy"]):
            if answer["token_ids"][at] != expected:
                assert sequence["margin"][at] < 0.01, at
                break
            assert answer["logprobs"][at]["logprob"] == pytest.approx(
                sequence["logprob"][at], abs=0.02
            )


def test_tokenize_both_ways(binary, model, recorded):
    text = recorded[17]["text"]
    ids = ok_json(run(binary, "tokenize", "--model", model, stdin=text))
    assert ids == recorded[17]["prompt"]
    assert (
        run(binary, "tokenize", "--model", model, "--decode", stdin=json.dumps(ids)).stdout == text
    )
    lines = [s["text"] for s in recorded if "text" in s]
    done = run(
        binary,
        "tokenize",
        "--model",
        model,
        "--jsonl",
        stdin="".join(json.dumps(l) + "\n" for l in lines),
    )
    assert [json.loads(l) for l in done.stdout.splitlines()] == [
        s["prompt"] for s in recorded if "text" in s
    ]
    assert ok_json(
        run(binary, "tokenize", "--model", model, "--parse-special", stdin="<|im_end|>")
    ) == [2]


def test_inspect_reports_the_model(binary, model):
    report = ok_json(run(binary, "inspect", model, "--output", "json"))
    text = json.dumps(report)
    for word in ("llama", "Q4_1", "Q8_0", "smollm", "576"):
        assert word in text, word
    assert "Q4_1" in run(binary, "inspect", model).stdout


def corrupt_files(model):
    head = model.read_bytes()[:2_000_000]
    yield "cut.gguf", head
    yield "empty.gguf", b""
    yield "text.gguf", b"this is no model\n" * 100
    yield "version.gguf", head[:4] + struct.pack("<I", 99) + head[8:]
    yield "many_tensors.gguf", head[:8] + struct.pack("<Q", 1 << 60) + head[16:]
    yield "many_keys.gguf", head[:16] + struct.pack("<Q", 1 << 62) + head[24:]
    yield "long_key.gguf", head[:24] + struct.pack("<Q", (1 << 64) - 1) + head[32:]


def test_a_corrupt_file_is_a_report_and_not_a_crash(binary, model, tmp_path):
    for name, data in corrupt_files(model):
        (tmp_path / name).write_bytes(data)
        done = run(binary, "inspect", tmp_path / name, "--output", "json")
        assert done.returncode == 1, (name, done.returncode, done.stderr)
        assert done.stdout + done.stderr, name
        for command in (
            ["generate", "--prompt", "x", "--max-tokens", "1"],
            ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"],
        ):
            refused = run(binary, *command, "--model", tmp_path / name)
            assert refused.returncode == 1 and name in refused.stderr, (
                name,
                command,
                refused.stderr[-500:],
            )


def test_eval_perplexity_counts_what_it_says(binary, model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "tests" / "data" / "eval.txt").read_text()[:4000])
    command = [
        "eval",
        "perplexity",
        "--model",
        model,
        "--text",
        text,
        "--window",
        "128",
        "--output",
        "json",
    ]
    half, most = ok_json(run(binary, *command, "--skip", "half")), ok_json(
        run(binary, *command, "--skip", "1")
    )
    assert set(half) >= {"perplexity", "nll", "tokens", "windows"}
    assert half["windows"] == most["windows"] >= 5
    assert half["tokens"] == half["windows"] * 63 and most["tokens"] == most["windows"] * 127
    assert 5 < half["perplexity"] < most["perplexity"] < 500


def test_eval_divergence_is_nothing_from_itself_and_little_from_the_exact_path(
    binary, model, tmp_path
):
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "tests" / "data" / "eval.txt").read_text()[:2500])
    same = ["--model", model, "--text", text, "--window", "128", "--skip", "half"]
    command = ["eval", "divergence", *same, "--output", "json"]
    itself = ok_json(run(binary, *command, "--base-cpu-activations", "int8"))
    assert itself["kl"]["max"] == 0 and itself["top1_agreement"]["percent"] == 100
    assert itself["perplexity"]["ratio"] == 1 and itself["logprob_delta"]["mean"] == 0

    exact = ok_json(run(binary, *command))
    assert exact["tokens"] == exact["windows"] * 63 and exact["first_scored"] == 65
    kl = exact["kl"]
    assert 0 < kl["median"] < kl["p90"] < kl["p99"] <= kl["max"] and 1e-4 < kl["mean"] < 0.05
    assert 90 < exact["top1_agreement"]["percent"] <= 100
    # The other evaluation, which scores through the sampler, finds the same perplexities.
    for side, activations in (("base", "f32"), ("candidate", "int8")):
        assert exact[side]["cpu_activations"] == activations
        alone = ["eval", "perplexity", *same, "--cpu-activations", activations, "--output", "json"]
        perplexity = ok_json(run(binary, *alone))["perplexity"]
        assert abs(perplexity / exact["perplexity"][side] - 1) < 1e-5


def test_eval_choices_knows_what_every_model_knows(binary, model, tmp_path):
    """Right answers are found, wrong labels are wrong, and the figure does not depend on the step's size."""
    known = [
        ("The capital of France is", ["Paris.", "banana.", "running."]),
        ("The sun rises in the", ["east.", "refrigerator.", "Tuesday."]),
        ("He opened the door and walked", ["into the room.", "colorless the of.", "seven."]),
        ("One, two, three,", ["four, five.", "purple, the.", "yesterday."]),
    ]
    data = tmp_path / "questions.jsonl"

    def evaluate(label, *more):
        lines = [{"ctx": ctx, "endings": endings, "label": label} for ctx, endings in known]
        data.write_text("\n".join(json.dumps(line) for line in lines))
        command = ["eval", "choices", "--model", model, "--data", data, "--output", "json"]
        return ok_json(run(binary, *command, *more))

    right = evaluate(0)
    assert right["accuracy"] == {"percent": 100, "standard_error": 0}
    assert right["questions"] == 4 and right["tokens"] >= 24
    assert evaluate(0, "--max-batch-tokens", "3") == right
    assert evaluate(2)["accuracy"]["percent"] == 0
    assert evaluate(0, "--limit", "2")["questions"] == 2

    data.write_text('{"ctx": "x", "endings": ["a"], "label": 0}')
    bad = run(binary, "eval", "choices", "--model", model, "--data", data)
    assert bad.returncode == 1 and "line 1" in bad.stderr and '"endings"' in bad.stderr


def test_bench_reports_rates(binary, model):
    report = ok_json(
        run(
            binary,
            "bench",
            "--model",
            model,
            "--prompt-tokens",
            "16",
            "--generate-tokens",
            "4",
            "--batch",
            "1,2",
            "--threads",
            "2",
            "--repeat",
            "2",
            "--output",
            "json",
        )
    )
    assert report["machine"]
    assert {(r["test"], r["batch"]) for r in report["results"]} == {
        (t, b) for t in ("prefill", "decode") for b in (1, 2)
    }
    for result in report["results"]:
        rate = result["tokens_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]


def test_health_of_a_running_and_of_no_server(binary, server):
    assert run(binary, "health", "--server", server.target).returncode == 0
    assert run(binary, "health", "--server", server.target, "--service", MODEL_NAME).returncode == 0
    assert run(binary, "health", "--server", "127.0.0.1:1", "--timeout", "2s").returncode == 1


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["serve", "--no-such-flag"],
        ["serve"],
        ["generate", "--prompt", "x"],
        ["serve", "--threads", "many"],
        ["serve", "--drain-timeout", "-3s"],
        ["serve", "--block-size", "7"],
        ["generate", "--model", "M", "--server", "S", "--prompt", "x"],
        ["inspect"],
        ["bench", "--batch", "0"],
    ],
    ids=lambda a: " ".join(a) or "nothing",
)
def test_wrong_usage_exits_2_and_says_so_on_stderr(binary, args):
    done = run(binary, *args)
    assert (done.returncode, done.stdout) == (2, ""), (
        done.returncode,
        done.stdout[:300],
        done.stderr[:300],
    )
    assert done.stderr


def test_a_bad_request_is_wrong_usage_locally_and_remotely(binary, model, server):
    for source in (["--model", model], ["--server", server.target]):
        done = run(binary, "generate", *source, "--prompt", "x", "--top-p", "1.4")
        assert done.returncode == 2 and "top_p" in done.stderr, (
            source,
            done.returncode,
            done.stderr,
        )


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "--model", "/no/such/file.gguf", "--prompt", "x"],
        ["serve", "--model", "/no/such/file.gguf", "--listen", "127.0.0.1:0"],
        ["inspect", "/no/such/file.gguf"],
        ["generate", "--server", "127.0.0.1:1", "--prompt", "x", "--timeout", "2s"],
    ],
)
def test_failures_exit_1(binary, args):
    done = run(binary, *args)
    assert done.returncode == 1 and done.stderr, (done.returncode, done.stderr)


def test_results_that_could_not_be_written_exit_1(binary, model):
    for command in (["version"], ["tokenize", "--model", str(model)]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [str(binary), *command], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE
            )
        assert done.returncode == 1 and b"stdout" in done.stderr, (command, done)


def test_help_of_every_command(binary):
    for command in (
        ["serve"],
        ["generate"],
        ["tokenize"],
        ["inspect"],
        ["eval", "perplexity"],
        ["bench"],
        ["health"],
    ):
        done = run(binary, *command, "--help")
        assert done.returncode == 0 and "--" in done.stdout, command


def test_print_config_shows_flags_over_environment_over_defaults(binary, model):
    config = ok_json(
        run(
            binary,
            "serve",
            "--model",
            model,
            "--max-running",
            "7",
            "--print-config",
            env={"NIBBLE_MAX_RUNNING": "9", "NIBBLE_MAX_WAITING": "11"},
        )
    )
    assert (config["max_running"], config["max_waiting"], config["block_size"]) == (7, 11, 32)


def test_a_piped_serve_writes_json_lines_and_nothing_else(binary, model, serve, server):
    own = serve()
    own.terminate()
    assert own.wait() == 0
    lines = [line for line in own.log().splitlines() if line]
    assert {"starting", "listening", "stopped"} <= {json.loads(line)["event"] for line in lines}

    quiet = serve(log_level="off")
    quiet.terminate()
    assert quiet.wait() == 0 and quiet.log() == ""

    taken = ["--listen", server.target, "--metrics-listen", "off"]
    failed = run(binary, "serve", "--model", model, *taken)
    events = {e["event"]: e for e in map(json.loads, filter(None, failed.stderr.splitlines()))}
    assert failed.returncode == 1 and server.target in events["failed"]["message"]


def test_a_terminal_is_told_what_to_try(binary, model, tmp_path):
    """The lines that a newcomer pastes after `make serve`."""
    here, there = pty.openpty()
    command = [binary, "serve", "--model", model, "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
    process = subprocess.Popen(command, stderr=there, env=clean_environment())
    os.close(there)
    shown = b""
    try:
        while b"a second one exits at once" not in shown:
            ready, _, _ = select.select([here], [], [], START_SECONDS)
            assert ready, shown
            shown += os.read(here, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(here)
    assert b"Try:" in shown and b"generate --server 127.0.0.1:" in shown


def test_a_port_that_is_taken_is_named(binary, model, server):
    done = run(
        binary, "serve", "--model", model, "--listen", server.target, "--metrics-listen", "off"
    )
    assert done.returncode == 1 and str(server.grpc) in done.stderr

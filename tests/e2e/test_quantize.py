"""From a full-precision model to a smaller one that is served: quantize, inspect, eval, and models without a file."""

import hashlib
import json

import pytest
from conftest import ROOT
from nibble_process import run

TINY = ROOT / "tests" / "data" / "tiny" / "tiny-f16.gguf"


def ok_json(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def quantize(binary, output, kind, *more):
    command = ["quantize", "--model", TINY, "--output", output, "--type", kind]
    return run(binary, *command, "--output-format", "json", *more)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text((ROOT / "tests" / "data" / "eval.txt").read_text()[:4000])
    return path


def divergence(binary, model, text):
    command = ["eval", "divergence", "--base-model", TINY, "--model", model, "--text", text]
    exact = ["--cpu-activations", "f32", "--window", "128", "--output", "json"]
    return ok_json(run(binary, *command, *exact))["kl"]["mean"]


def test_fewer_bits_cost_more_and_every_file_says_what_it_is(binary, text, tmp_path):
    digest = hashlib.sha256(TINY.read_bytes()).hexdigest()
    costs, bits = [], []
    for kind in ("q8_0", "q4_k_m", "q2_k"):
        output = tmp_path / f"{kind}.gguf"
        report = ok_json(quantize(binary, output, kind))
        assert report["output_bytes"] == output.stat().st_size and report["source_sha256"] == digest
        bits.append(report["bits_per_weight"])
        costs.append(divergence(binary, output, text))
        told = run(binary, "inspect", output)
        assert told.returncode == 0 and digest in told.stdout and kind in told.stdout
        said = run(binary, "generate", "--model", output, "--prompt", "He", "--max-tokens", "4")
        assert said.returncode == 0, said.stderr
    assert 0 < costs[0] < costs[1] < costs[2] and costs[1] < 0.02, costs
    assert bits[0] > bits[1] > bits[2]
    assert not list(tmp_path.glob("*.partial"))


def test_what_exists_is_not_replaced_unasked(binary, tmp_path):
    output = tmp_path / "m.gguf"
    output.write_text("mine")
    refused = quantize(binary, output, "q8_0")
    assert refused.returncode == 1 and "--overwrite" in refused.stderr
    assert output.read_text() == "mine"
    assert quantize(binary, output, "q8_0", "--overwrite").returncode == 0
    first = output.read_bytes()
    assert quantize(binary, output, "q8_0", "--overwrite", "--threads", "1").returncode == 0
    assert output.read_bytes() == first
    assert quantize(binary, TINY, "q8_0", "--overwrite").returncode == 2
    unknown = quantize(binary, tmp_path / "x.gguf", "q9_z")
    assert unknown.returncode == 2 and "q4_k_m" in unknown.stderr


def test_importance_is_measured_and_kept(binary, tmp_path):
    calibration = tmp_path / "calibration.txt"
    calibration.write_text((TINY.parent / "calib.txt").read_text()[:8000])
    output, kept = tmp_path / "q2.gguf", tmp_path / "importance.gguf"
    measured = ["--calibration", calibration, "--imatrix-output", kept]
    assert quantize(binary, output, "q2_k", *measured).returncode == 0
    again = tmp_path / "again.gguf"
    assert quantize(binary, again, "q2_k", "--imatrix", kept).returncode == 0
    shown = run(binary, "inspect", output).stdout
    assert hashlib.sha256(calibration.read_bytes()).hexdigest() in shown


def test_a_budget_goes_where_it_saves_most(binary, text, tmp_path):
    mix, chosen = tmp_path / "mix.gguf", tmp_path / "chosen.gguf"
    budget = ok_json(quantize(binary, mix, "q4_k_m"))["weights_bytes"]
    flags = ["--byte-budget", str(budget), "--budget-windows", "1", "--calibration-length", "128"]
    report = ok_json(quantize(binary, chosen, "q4_k_m", *flags))
    assert 0.98 * budget < report["weights_bytes"] <= budget
    assert len(report["sensitivity"]) == 30 and all(len(t["choices"]) == 7 for t in report["sensitivity"])
    assert divergence(binary, chosen, text) < divergence(binary, mix, text)
    small = quantize(binary, tmp_path / "small.gguf", "q4_k_m", *flags[2:], "--byte-budget", "1MB")
    assert small.returncode == 2 and "smallest types" in small.stderr
    both = quantize(binary, tmp_path / "both.gguf", "q4_0", *flags, "--method", "rtn")
    assert both.returncode == 2 and "--byte-budget" in both.stderr


def by_method(binary, output, *more):
    command = ["quantize", "--model", TINY, "--output", output, "--output-format", "json"]
    return run(binary, *command, *more)


def test_gptq_costs_less_than_rounding_in_the_same_blocks(binary, text, tmp_path):
    few = ["--calibration-windows", "16", "--calibration", TINY.parent / "calib.txt"]
    costs, sizes = {}, {}
    for method, more in (("rtn", []), ("gptq", few), ("awq-clip", few)):
        output = tmp_path / f"{method}.gguf"
        report = ok_json(by_method(binary, output, "--method", method, "--scheme", "int4-full-g64", *more))
        assert report["type"] == "q4_0" and "Q4_0" in {tensor["to"] for tensor in report["tensors"]}
        sizes[method] = report["weights_bytes"]
        costs[method] = divergence(binary, output, text)
        said = run(binary, "generate", "--model", output, "--prompt", "He", "--max-tokens", "4")
        assert said.returncode == 0, said.stderr
    assert costs["gptq"] < 0.8 * costs["rtn"] and costs["awq-clip"] < costs["rtn"], costs
    assert len(set(sizes.values())) == 1
    told = run(binary, "inspect", tmp_path / "gptq.gguf").stdout
    assert "gptq-actorder-int4-full-g64" in told and "--calibration-windows 16" in told


def test_a_method_gives_the_same_file_on_any_threads_for_a_seed(binary, tmp_path):
    few = ["--method", "gptq", "--calibration-windows", "3", "--calibration-length", "64"]
    files = []
    for threads, seed in (("1", "5"), ("2", "5"), ("2", "6")):
        output = tmp_path / f"{threads}-{seed}.gguf"
        assert by_method(binary, output, *few, "--threads", threads, "--seed", seed).returncode == 0
        files.append(output.read_bytes())
    assert files[0] == files[1] and files[0] != files[2]
    assert not list(tmp_path.glob("*.partial"))


def test_methods_and_types_that_do_not_go_together_teach(binary, tmp_path):
    wrong = by_method(binary, tmp_path / "x.gguf", "--method", "rtn", "--scheme", "nf4-b64")
    assert wrong.returncode == 2 and "no ggml type has the codes of nf4-b64" in wrong.stderr
    wrong = by_method(binary, tmp_path / "x.gguf", "--method", "gptq", "--type", "q4_k_m")
    assert wrong.returncode == 2 and "give --type q4_0 or none" in wrong.stderr


def test_the_table_of_methods_ranks_them(binary, text):
    command = ["eval", "table", "--model", TINY, "--text", text, "--calibration", TINY.parent / "calib.txt"]
    methods = ["--methods", "rtn-int4-sym-g128,rtn-int8-sym-channel", "--window", "128", "--decode-tokens", "0"]
    done = run(binary, *command, *methods, "--output", "json")
    rows = {row["method"]: row for row in ok_json(done)["rows"]}
    coarse, fine = rows["rtn-int4-sym-g128"], rows["rtn-int8-sym-channel"]
    assert coarse["kl"]["mean"] > fine["kl"]["mean"] > 0


def test_a_random_model_needs_no_file(binary):
    model = "random:smollm2-135m:int4-g64"
    shown = run(binary, "inspect", model)
    assert shown.returncode == 0 and "134515008 parameters" in shown.stdout
    short = ["--prompt-tokens", "8", "--generate-tokens", "2", "--no-roofline", "--repeat", "1"]
    report = ok_json(run(binary, "bench", "--model", model, *short, "--output", "json"))
    assert len(report["results"]) == 2
    wrong = run(binary, "bench", "--model", "random:smollm2-135m:int3", *short)
    assert wrong.returncode == 1 and "int4-g64" in wrong.stderr

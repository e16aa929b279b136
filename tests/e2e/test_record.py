"""What a quantized model lost: measured against a base or a file of it, recorded, shown, served; and memory by --plan."""

import hashlib
import json

import grpc
import pytest
from conftest import ROOT
from nibble.v1 import model_pb2, model_pb2_grpc
from nibble_process import NibbleServer, run

TINY = ROOT / "tests" / "data" / "tiny" / "tiny-f16.gguf"
EXACT = ["--cpu-activations", "f32", "--window", "128", "--output", "json"]


def ok_json(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text((ROOT / "tests" / "data" / "eval.txt").read_text()[:4000])
    return path


@pytest.fixture
def small(binary, tmp_path):
    path = tmp_path / "q4.gguf"
    done = run(binary, "quantize", "--model", TINY, "--output", path, "--type", "q4_k_m")
    assert done.returncode == 0, done.stderr
    return path


def divergence(binary, text, *more):
    return run(binary, "eval", "divergence", "--text", text, *EXACT, *more)


@pytest.mark.parametrize("stride", ["0", "32"])
def test_a_base_file_stands_in_for_the_model_it_was_made_with(binary, text, small, tmp_path, stride):
    kept = tmp_path / "f16.base"
    windows = ["--stride", stride, "--skip", "1"]
    saved = ok_json(divergence(binary, text, "--base-model", TINY, "--save-base", kept, *windows))
    assert kept.stat().st_size == saved["bytes"] and saved["bytes_per_token"] == 16 + 2 * 2048
    live = ok_json(divergence(binary, text, "--base-model", TINY, "--model", small, *windows))
    from_file = ok_json(divergence(binary, text, "--base", kept, "--model", small, *windows))
    assert from_file["tokens"] == live["tokens"] == saved["tokens"]
    assert from_file["kl"]["mean"] == pytest.approx(live["kl"]["mean"], rel=1e-3)
    assert from_file["top1_agreement"] == live["top1_agreement"]
    assert from_file["perplexity"]["ratio"] == pytest.approx(live["perplexity"]["ratio"], rel=1e-6)
    other = divergence(binary, text, "--base", kept, "--model", small, "--skip", "3")
    assert other.returncode == 1 and "--skip" in other.stderr
    kept.write_bytes(kept.read_bytes()[:-1])
    cut = divergence(binary, text, "--base", kept, "--model", small, *windows)
    assert cut.returncode == 1 and "DATA_LOSS" in cut.stderr


def served(binary, model, tmp_path):
    """What a server of this model says of its quantization: GetModel's message, and `inspect --server` as JSON."""
    server = NibbleServer(binary, model, tmp_path, max_context=512, kv_cache_mib=16)
    try:
        stub = model_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server.target))
        told = stub.GetModel(model_pb2.GetModelRequest(), timeout=10).quantization
        return told, ok_json(run(binary, "inspect", "--server", server.target, "--output", "json"))
    finally:
        server.stop()


def test_a_record_is_shown_by_inspect_and_by_the_server(binary, text, small, tmp_path):
    command = ["--base-model", TINY, "--model", small, "--record"]
    measured = ok_json(divergence(binary, text, *command))
    shown = ok_json(run(binary, "inspect", small, "--output", "json"))["quantized"]["evaluation"]
    assert shown["kl"] == measured["kl"]["mean"] > 0
    assert shown["text_sha256"] == hashlib.sha256(text.read_bytes()).hexdigest()
    assert ok_json(divergence(binary, text, *command))["kl"] == measured["kl"], "weights are as they were"
    told, remote = served(binary, small, tmp_path)
    assert told.method == "ggml" and told.type == "q4_k_m" and told.tensor_errors
    assert told.source_sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert told.quality.kl_nats == measured["kl"]["mean"]
    assert remote["quantized"]["evaluation"] == shown


def test_a_folder_tells_how_it_came_to_be_as_a_file_does(binary, text, tmp_path):
    folder = tmp_path / "nf4"
    done = run(binary, "quantize", "--model", TINY, "--output", folder, "--layout", "bitsandbytes", "--method", "rtn-nf4-b64-dq")
    assert done.returncode == 0, done.stderr
    measured = ok_json(divergence(binary, text, "--base-model", TINY, "--model", folder, "--record"))
    shown = ok_json(run(binary, "inspect", folder, "--output", "json"))["quantized"]
    assert shown["method"] == "rtn-nf4-b64-dq" and shown["type"] == "bitsandbytes"
    assert shown["source_sha256"] == hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert shown["evaluation"]["kl"] == measured["kl"]["mean"] > 0
    assert 0.05 < shown["tensor_errors"]["blk.0.attn_q.weight"] < 0.2
    in_words = run(binary, "inspect", folder).stdout
    assert "bitsandbytes (rtn-nf4-b64-dq) by nibble" in in_words and "KL from its source" in in_words
    told, remote = served(binary, folder, tmp_path)
    assert told.method == "rtn-nf4-b64-dq" and told.type == "bitsandbytes"
    assert told.quality.kl_nats == measured["kl"]["mean"]
    assert remote["quantized"] == shown


def test_a_folder_that_lies_about_itself_is_served_all_the_same(binary, tmp_path):
    folder = tmp_path / "plain"
    assert run(binary, "quantize", "--model", TINY, "--output", folder, "--layout", "plain").returncode == 0
    told = json.loads((folder / "nibble_quantize.json").read_text())
    (folder / "nibble_quantize.json").write_text(json.dumps(told | {"nibble.quantize.method": 7}))
    shown = ok_json(run(binary, "inspect", folder, "--output", "json"))
    assert shown["ok"] and shown["quantized"] is None
    assert "'nibble.quantize.method' is 7, needed a string" in shown["quantized_error"]
    server = NibbleServer(binary, folder, tmp_path, max_context=512, kv_cache_mib=16)
    try:
        stub = model_pb2_grpc.ModelServiceStub(grpc.insecure_channel(server.target))
        assert not stub.GetModel(model_pb2.GetModelRequest(), timeout=10).HasField("quantization")
        assert "needed a string" in server.log()
    finally:
        server.stop()


def test_only_the_source_is_a_base_to_record(binary, text, small):
    before = small.read_bytes()
    refused = divergence(binary, text, "--base-model", small, "--model", small, "--record")
    assert refused.returncode == 1 and "SHA-256" in refused.stderr
    assert divergence(binary, text, "--model", small, "--record").returncode == 2
    assert small.read_bytes() == before


def test_plans_need_no_file(binary):
    weights = ok_json(run(binary, "inspect", "--plan", "--parameters", "70b", "--formats", "16-bit,4-bit", "--output", "json"))
    assert [row["file_bytes"] for row in weights["weights"]] == [140_000_000_000, 35_000_000_000]
    shape = ["--layers", "32", "--heads", "32", "--head-dim", "128", "--context", "4096", "--sequences", "16"]
    cache = ok_json(run(binary, "inspect", "--plan", *shape, "--output", "json"))["kv_cache"][0]
    assert (cache["type"], cache["layer_token_bytes"], cache["token_bytes"]) == ("f16", 16 << 10, 512 << 10)
    assert cache["total_bytes"] == 32 << 30
    assert run(binary, "inspect", "--plan").returncode == 2

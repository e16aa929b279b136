"""From a full-precision GGUF file to folders in the layouts of Hugging Face's ecosystem, which are served and compared."""

import json

import pytest
from conftest import ROOT
from nibble_process import run

TINY = ROOT / "tests" / "data" / "tiny" / "tiny-f16.gguf"
CALIBRATION = ROOT / "tests" / "data" / "tiny" / "calib.txt"

# layout, --method, --scheme, quant_method, most KL to the source
CASES = [
    ("gptq", "gptq", "int4-full-g64", "gptq", 0.008),
    ("gptq-v2", "gptq", "int4-asym-g128", "gptq", 0.008),
    ("awq", "awq", "int4-asym-g64", "awq", 0.010),
    ("auto", "rtn-nf4-b64-dq", None, "bitsandbytes", 0.010),
    ("auto", "rtn-e4m3-block", None, "fp8", 0.002),
    ("auto", "smoothquant", None, "compressed-tensors", 0.001),
]


def ok_json(done):
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def quantize(binary, output, layout, method, scheme=None, model=TINY):
    command = ["quantize", "--model", model, "--output", output, "--layout", layout, "--output-format", "json"]
    if method:
        command += ["--method", method]
    if scheme:
        command += ["--scheme", scheme]
    if method and not method.startswith("rtn"):
        command += ["--calibration", CALIBRATION, "--calibration-windows", "24"]
    return run(binary, *command)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text((ROOT / "tests" / "data" / "eval.txt").read_text()[:6000])
    return path


def divergence(binary, model, text):
    command = ["eval", "divergence", "--base-model", TINY, "--model", model, "--text", text]
    exact = ["--cpu-activations", "f32", "--window", "128", "--output", "json"]
    return ok_json(run(binary, *command, *exact))["kl"]["mean"]


@pytest.mark.parametrize(("layout", "method", "scheme", "kind", "most"), CASES)
def test_a_folder_is_served_and_close_to_its_source(binary, text, tmp_path, layout, method, scheme, kind, most):
    folder = tmp_path / "model"
    report = ok_json(quantize(binary, folder, layout, method, scheme))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == kind
    how = json.loads((folder / "nibble_quantize.json").read_text())
    assert how["nibble.quantize.source_sha256"] == report["source_sha256"]
    assert len(how["nibble.quantize.tensors"]) == len(how["nibble.quantize.tensor_errors"])
    assert report["output_bytes"] == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert report["output_bytes"] < TINY.stat().st_size * (0.9 if "int4" in (scheme or "") else 1)
    kl = divergence(binary, folder, text)
    assert 0 < kl < most, kl
    said = run(binary, "generate", "--model", folder, "--prompt", "The river", "--max-tokens", "8", "--temperature", "0")
    assert said.returncode == 0 and said.stdout.strip(), said.stderr
    assert not list(tmp_path.glob("*.partial"))


def tensors(path):
    """Of a safetensors file: {name: (type, shape, bytes)}, wherever in the file they lie."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    cut = {name: slice(start + t["data_offsets"][0], start + t["data_offsets"][1]) for name, t in header.items()}
    return {name: (t["dtype"], t["shape"], data[cut[name]]) for name, t in header.items()}


def test_a_plain_folder_is_the_source(binary, text, tmp_path):
    folder, again = tmp_path / "plain", tmp_path / "again"
    ok_json(quantize(binary, folder, "plain", None))
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert divergence(binary, folder, text) == pytest.approx(0, abs=1e-9)
    # From a folder its own files are taken; the weights are the same bytes, in the source's order.
    (folder / "special_tokens_map.json").write_text("{}")
    ok_json(quantize(binary, again, "plain", None, model=folder))
    assert tensors(again / "model.safetensors") == tensors(folder / "model.safetensors")
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (again / "special_tokens_map.json").exists()


def test_what_a_layout_does_not_hold_is_refused_before_any_work(binary, tmp_path):
    for layout, method, scheme, named in [
        ("awq", "gptq", "int3-full-g64", "gptq"),
        ("gptq", "rtn-nf4-b64", None, "bitsandbytes"),
        ("exl2", "gptq", None, "--layout"),
    ]:
        refused = quantize(binary, tmp_path / "no", layout, method, scheme)
        assert refused.returncode == 2 and named in refused.stderr, refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_kept(binary, tmp_path):
    (tmp_path / "mine").write_text("precious")
    refused = quantize(binary, tmp_path, "auto", "rtn-nf4-b64")
    assert refused.returncode == 1 and "is there already" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]

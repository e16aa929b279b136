"""Reads folders that nibble wrote with the libraries that define their layouts, and compares every tensor, in float32,
with what nibble's own reader takes it for.

    pip install -r requirements-compare.txt    # gptqmodel and autoawq: --no-deps --no-build-isolation, BUILD_CUDA_EXT=0
    python compare_written.py PATH/TO/written_folders            # a sample of every layout and scheme
    python compare_written.py PATH/TO/written_folders FOLDER...  # folders that `nibble quantize` wrote

safetensors reads the files. The matrices are dequantized by compressed-tensors' compressors (whose schema its part of
config.json must pass), bitsandbytes' functions, GPTQModel's TorchLinear with its conversion of v1, AutoAWQ's
dequantize_gemm, and for plain FP8 by torch's types. Scales are widened to float32 before they are multiplied with, so
that results are exact; LLM.int8() alone multiplies with 1/127 there and is held to one rounding.
"""
import collections
import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from safetensors import safe_open

ROUNDING = 3e-7  # of one multiplication more
PACKAGES = ("safetensors", "torch", "compressed-tensors", "bitsandbytes", "gptqmodel", "autoawq", "transformers")


def tensors_of(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata()["format"] == "pt"
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        assert sorted(json.loads(index.read_text())["weight_map"]) == sorted(tensors)
    return tensors


def module_of(path, name):
    """A module of an installed package, without what its __init__ imports."""
    package = importlib.util.find_spec(path.split(".")[0]).submodule_search_locations[0]
    file = pathlib.Path(package, *path.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_gptqmodel(config, part):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
    inputs, outputs = part["g_idx"].shape[0], part["scales"].shape[1]
    linear = TorchLinear(bits=config["bits"], group_size=config["group_size"], sym=config["sym"], desc_act=config["desc_act"],
                         in_features=inputs, out_features=outputs, bias=False, pack_dtype=torch.int32)
    linear.load_state_dict(part)
    if config["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(linear, bits=config["bits"], pack_dtype=torch.int32)
    linear.scales = part["scales"].to(torch.float32)
    return linear.eval().dequantize_weight().T


def by_autoawq(config, part):
    packing = module_of("awq.utils.packing_utils", "awq_packing_utils")
    inputs = part["qweight"].shape[0]
    group = config["group_size"] if config["group_size"] > 0 else inputs
    return packing.dequantize_gemm(part["qweight"], part["qzeros"], part["scales"].to(torch.float32), config["bits"], group).T


def by_compressed_tensors(config, part):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    parsed = QuantizationConfig.model_validate(config)
    compressor = BaseCompressor.get_value_from_registry(parsed.format)
    part["weight_scale"] = part["weight_scale"].to(torch.float32)
    return compressor.decompress(part, parsed.config_groups["group_0"])["weight"]


def by_bitsandbytes(config, part):
    import bitsandbytes.functional as bnb
    if config["load_in_8bit"]:
        assert part["weight_format"].item() == 0
        return bnb.int8_vectorwise_dequant(part["weight"], part["SCB"])
    state = {key.removeprefix("weight."): value for key, value in part.items() if key != "weight"}
    state = bnb.QuantState.from_dict(state, device=torch.device("cpu"))
    state.dtype = torch.float32
    return bnb.dequantize_4bit(part["weight"], state)


def by_torch(config, part):
    weight = part["weight"].to(torch.float32)
    if "weight_scale" in part:
        return weight * part["weight_scale"]
    high, wide = config["weight_block_size"]
    scale = part["weight_scale_inv"].repeat_interleave(high, 0).repeat_interleave(wide, 1)
    return weight * scale[: weight.shape[0], : weight.shape[1]]


READERS = {"gptq": by_gptqmodel, "awq": by_autoawq, "compressed-tensors": by_compressed_tensors,
           "bitsandbytes": by_bitsandbytes, "fp8": by_torch}


def equal(ours, theirs, config):
    theirs = theirs.to(torch.float32).numpy()
    if config.get("load_in_8bit"):
        return np.allclose(ours, theirs, rtol=ROUNDING, atol=0)
    return ours.shape == theirs.shape and np.array_equal(ours, theirs)


def compare(binary, folder, counts):
    config = json.loads((folder / "config.json").read_text()).get("quantization_config", {})
    with tempfile.TemporaryDirectory() as scratch:
        file = pathlib.Path(scratch, "values.safetensors")
        subprocess.run([binary, "values", folder, file], check=True)
        with safe_open(file, framework="np") as opened:
            ours = {name: opened.get_tensor(name) for name in opened.keys()}
    parts = collections.defaultdict(dict)
    for name, tensor in tensors_of(folder).items():
        module = max((m for m in (o.rsplit(".", 1)[0] for o in ours) if name.startswith(m + ".")), key=len)
        parts[module][name[len(module) + 1:]] = tensor
    failed = 0
    for name, values in ours.items():
        module, kind = name.rsplit(".", 1)
        part = parts[module]
        packed = kind == "weight" and not (set(part) <= {"weight", "bias"})
        theirs = READERS[config["quant_method"]](config, dict(part)) if packed else part[kind]
        good = equal(values, theirs, config if packed else {})
        key = config["quant_method"] if packed else "as they are"
        counts[key, good] += 1
        if not good:
            failed += 1
            print(f"{folder.name}: {name} differs")
    print(f"{folder.name}: {len(ours)} tensors, {failed} differ")
    return failed


def main():
    binary, folders = sys.argv[1], [pathlib.Path(folder) for folder in sys.argv[2:]]
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        if not folders:
            subprocess.run([binary, "write", scratch], check=True)
            folders = sorted(pathlib.Path(scratch).iterdir())
        failed = sum(compare(binary, folder, counts) for folder in folders)
    for (reader, good), count in sorted(counts.items()):
        print(f"{reader}: {count} tensors {'equal' if good else 'DIFFERENT'}")
    for package in PACKAGES:
        try:
            print(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            print(package, "absent")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())

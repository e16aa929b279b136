"""Writes matrices/*.safetensors: one matrix in each quantized layout of Hugging Face checkpoints, and its values.

Every file holds the tensors of one module "m" as a checkpoint has them, the values "expected" (F32, [rows, cols]), and
as metadata the config.json that goes with them and what nibble is to call the layout. Layouts that a library packs
(compressed-tensors, bitsandbytes) are packed by it; GPTQ and AWQ, whose libraries do not install here without a
compiler and a GPU, are packed below, bit by bit, from the description of their formats. "expected" is each format's
formula in float32, computed here from the codes before they are packed.

    pip install -r requirements.txt && python record.py
"""
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "matrices"
F32 = np.float32


def rng(name):
    return np.random.default_rng(sum(name.encode()))


def write(name, config, kind, tensors, expected):
    tensors = {f"m.{key}": value.contiguous() for key, value in tensors.items()}
    tensors["expected"] = torch.from_numpy(np.ascontiguousarray(expected, dtype=F32))
    meta = {"config": json.dumps(config), "type": kind}
    save_file(tensors, OUT / f"{name}.safetensors", metadata=meta)


def bits_of(values, bits):
    """A stream of `bits`-bit values along axis 0, as i32 words: bit b of value i is bit (i * bits + b) of the stream."""
    count, width = values.shape
    stream = ((values[:, None, :] >> np.arange(bits)[None, :, None]) & 1).reshape(count * bits, width)
    words = (stream.reshape(count * bits // 32, 32, width).astype(np.uint64) << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1)
    return torch.from_numpy(words.astype(np.uint32).view(np.int32).copy())


def affine(codes, zeros, scales, group_of):
    """[rows, cols] from [cols, rows] codes and [groups, rows] zeros and scales."""
    return (scales.astype(F32)[group_of] * (codes.astype(F32) - zeros.astype(F32)[group_of])).T


def gptq(name, bits, group, version, kind, rows=32, cols=64, symmetric=False, order=None, scale_type=torch.float16):
    random = rng(name)
    groups = cols // group
    codes = random.integers(0, 1 << bits, (cols, rows))
    zeros = random.integers(0, 1 << bits, (groups, rows))  # v1 stores one less, 0 as all ones
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    scales = torch.from_numpy(random.uniform(0.001, 0.1, (groups, rows)).astype(F32)).to(scale_type)
    group_of = np.arange(cols) // group
    if order == "act":
        group_of = random.permutation(group_of)
    stored = (zeros - 1) % (1 << bits) if version == "gptq" else zeros
    tensors = {"qweight": bits_of(codes, bits), "qzeros": bits_of(stored.T, bits).T, "scales": scales}
    if order != "absent":
        tensors["g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": order == "act",
              "sym": symmetric, "checkpoint_format": version}
    write(name, config, kind, tensors, affine(codes, zeros, scales.to(torch.float32).numpy(), group_of))


def awq(name, group, kind, rows=32, cols=64):
    random = rng(name)
    codes = random.integers(0, 16, (cols, rows))
    zeros = random.integers(0, 16, (cols // group, rows))
    scales = random.uniform(0.001, 0.1, (cols // group, rows)).astype(np.float16)

    def pack(values):
        words = np.zeros((values.shape[0], rows // 8), np.uint32)
        for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words |= values[:, column::8].astype(np.uint32) << np.uint32(4 * nibble)
        return torch.from_numpy(words.view(np.int32).copy())

    tensors = {"qweight": pack(codes), "qzeros": pack(zeros), "scales": torch.from_numpy(scales)}
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    write(name, config, kind, tensors, affine(codes, zeros, scales, np.arange(cols) // group))


def compressed(name, bits, kind, strategy, group=None, symmetric=True, scale_type=torch.bfloat16, integers=False,
               order=False, rows=32, cols=64):
    """Through compressed-tensors' own compressor of weights whose codes are known."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
    random = rng(name)
    half = 1 << (bits - 1)
    groups = cols // group if group else 1
    codes = random.integers(-half, half, (rows, cols))
    shape = {"group": (rows, groups), "channel": (rows, 1), "tensor": (1,)}[strategy]
    scale = torch.from_numpy(random.uniform(0.001, 0.1, shape).astype(F32)).to(scale_type)
    zero = np.zeros(shape, np.int64) if symmetric else random.integers(-half, half, shape)
    group_of = np.arange(cols) // (group or cols)
    tensors = {"weight_scale": scale}
    if order:
        group_of = random.permutation(group_of)
        tensors["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    if integers:
        tensors["weight"] = torch.from_numpy(codes.astype(np.int8))
    else:
        tensors["weight_packed"] = pack_to_int32(torch.from_numpy(codes.astype(np.int8)), bits)
        tensors["weight_shape"] = torch.tensor([rows, cols])
    if not symmetric:
        stored = torch.from_numpy(zero.astype(np.int8))
        tensors["weight_zero_point"] = stored if integers else pack_to_int32(stored, bits, packed_dim=0)
    wide = np.broadcast_to(scale.to(torch.float32).numpy().reshape(-1 if strategy != "tensor" else 1, groups), (rows, groups))
    zeros = np.broadcast_to(zero.reshape(-1 if strategy != "tensor" else 1, groups), (rows, groups))
    expected = wide[:, group_of] * (codes - zeros[:, group_of]).astype(F32)
    weights = {"num_bits": bits, "type": "int", "strategy": strategy, "symmetric": symmetric, "group_size": group}
    form = "int-quantized" if integers else "pack-quantized"
    config = {"quant_method": "compressed-tensors", "format": form,
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": form}}}
    write(name, config, kind, tensors, expected)


def fp8(name, per, kind, method="fp8", dtype=torch.float8_e4m3fn, scale_type=torch.float32, rows=32, cols=64):
    random = rng(name)
    codes = torch.from_numpy(random.normal(0, 20, (rows, cols)).astype(F32)).to(dtype)
    blocks = (-(-rows // 128), -(-cols // 128))
    shape = {"tensor": (1,), "scalar": (), "row": (rows, 1), "block": blocks, "inverse": blocks}[per]
    scale = torch.from_numpy(np.asarray(random.uniform(0.001, 0.1, shape), dtype=F32)).to(scale_type)
    wide = scale.to(torch.float32).numpy()
    if per in ("block", "inverse"):
        wide = np.repeat(np.repeat(wide, 128, 0), 128, 1)[:rows, :cols]
    config = {"quant_method": method, "activation_scheme": "dynamic"}
    if method == "compressed-tensors":
        config = {"quant_method": method, "format": "float-quantized", "config_groups": {"group_0": {"weights": {
            "num_bits": 8, "type": "float", "block_structure": [128, 128] if per == "block" else None}}}}
    elif per == "inverse":
        config["weight_block_size"] = [128, 128]
    key = "weight_scale_inv" if per == "inverse" else "weight_scale"
    write(name, config, kind, {"weight": codes, key: scale}, wide * codes.to(torch.float32).numpy())


def bnb4(name, quant_type, kind, nested=False, block=64, rows=32, cols=64):
    import bitsandbytes.functional as bnb
    weight = torch.from_numpy(rng(name).normal(0, 0.05, (rows, cols)).astype(F32))
    packed, state = bnb.quantize_4bit(weight, blocksize=block, quant_type=quant_type, compress_statistics=nested)
    tensors = {"weight": packed} | {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    codes = np.stack([packed.numpy().ravel() >> 4, packed.numpy().ravel() & 15], 1).ravel()
    absmax = state.absmax
    if nested:
        absmax = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    expected = state.code.numpy()[codes] * np.repeat(absmax.numpy(), block)[: codes.size]
    expected = expected.reshape(rows, cols)
    library = bnb.dequantize_4bit(packed, state).numpy()
    if cols % block == 0:  # the formula is the library's own, to the bit
        assert np.array_equal(library, expected), name
    else:  # 0.50.2 on a CPU takes a wrong scale there: its error against the source is three times the formula's
        assert np.abs(library - weight.numpy()).max() > 2 * np.abs(expected - weight.numpy()).max(), name
    write(name, {"quant_method": "bitsandbytes", "load_in_4bit": True}, kind, tensors, expected)


def bnb8(name, kind, rows=32, cols=64):
    import bitsandbytes.functional as bnb
    weight = torch.from_numpy(rng(name).normal(0, 0.05, (rows, cols)).astype(np.float16))
    codes, scb, _ = bnb.int8_vectorwise_quant(weight)
    tensors = {"weight": codes, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    expected = (scb.numpy() / F32(127))[:, None] * codes.numpy().astype(F32)
    library = bnb.int8_vectorwise_dequant(codes, scb).numpy()
    assert np.allclose(library, expected, rtol=3e-7, atol=0), name  # it multiplies by 1/127, one rounding more
    write(name, {"quant_method": "bitsandbytes", "load_in_8bit": True}, kind, tensors, expected)


def main():
    OUT.mkdir(exist_ok=True)
    for bits in (2, 3, 4, 8):
        for version in ("gptq", "gptq_v2"):
            gptq(f"{version}_{bits}bit", bits, 32, version, f"GPTQ int{bits} g32")
    gptq("gptq_4bit_symmetric", 4, 16, "gptq", "GPTQ int4 g16", symmetric=True)
    gptq("gptq_4bit_column", 4, 64, "gptq", "GPTQ int4 g64", order="absent")
    gptq("gptq_4bit_act_order", 4, 32, "gptq", "GPTQ int4 g32 act-order", order="act")
    gptq("gptq_3bit_act_order", 3, 32, "gptq_v2", "GPTQ int3 g32 act-order", order="act")
    gptq("gptq_4bit_f32_scales", 4, 32, "gptq", "GPTQ int4 g32", scale_type=torch.float32)
    gptq("gptq_8bit_bf16_scales", 8, 32, "gptq", "GPTQ int8 g32", scale_type=torch.bfloat16)
    gptq("gptq_8bit_f32_scales", 8, 32, "gptq", "GPTQ int8 g32", scale_type=torch.float32)
    awq("awq_g32", 32, "AWQ int4 g32")
    awq("awq_g64", 64, "AWQ int4 g64")
    for bits in (2, 4, 8):
        compressed(f"packed_{bits}bit", bits, f"packed int{bits} g32", "group", 32)
        compressed(f"packed_{bits}bit_zero_point", bits, f"packed int{bits} g32 zero-point", "group", 32, symmetric=False)
    compressed("packed_4bit_row", 4, "packed int4 row", "channel")
    compressed("packed_4bit_f32_scales", 4, "packed int4 g32", "group", 32, scale_type=torch.float32)
    compressed("packed_4bit_f32_zero_point", 4, "packed int4 g32 zero-point", "group", 32, symmetric=False,
               scale_type=torch.float32)
    compressed("packed_4bit_act_order", 4, "packed int4 g32 act-order", "group", 32, order=True)
    compressed("packed_8bit_f32_scales", 8, "packed int8 row", "channel", scale_type=torch.float32)
    compressed("int8_row", 8, "int8 row", "channel", integers=True, scale_type=torch.float32)
    compressed("int8_tensor", 8, "int8 tensor", "tensor", integers=True)
    compressed("int8_zero_point", 8, "int8 row zero-point", "channel", integers=True, symmetric=False)
    fp8("fp8_scalar", "scalar", "FP8 e4m3 tensor")
    fp8("fp8_tensor_bf16", "tensor", "FP8 e4m3 tensor", scale_type=torch.bfloat16)
    fp8("fp8_e5m2", "tensor", "FP8 e5m2 tensor", dtype=torch.float8_e5m2)
    fp8("fp8_row", "row", "FP8 e4m3 row", method="compressed-tensors")
    fp8("fp8_block", "block", "FP8 e4m3 128x128", method="compressed-tensors", rows=144, cols=160)
    fp8("fp8_deepseek", "inverse", "FP8 e4m3 128x128", rows=160, cols=144)
    bnb4("nf4", "nf4", "NF4 b64")
    bnb4("nf4_double", "nf4", "NF4 b64 double", nested=True)
    bnb4("fp4", "fp4", "FP4 b64")
    bnb4("nf4_rows_in_blocks", "nf4", "NF4 b64", cols=96)
    bnb8("llm_int8", "LLM.int8")


if __name__ == "__main__":
    main()

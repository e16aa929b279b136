#!/usr/bin/env python3
"""Prints, for every tensor of a GGUF file, a hash of its values as gguf-py (pip install gguf) dequantizes them.

The constants in tests/engine/weights/ggml_types_test.cc (RandomBlocksGiveTheOraclesBits) come from here:
  NIBBLE_WRITE_ORACLE_INPUT=blocks.gguf build/release/tests/engine/weights/weights_test \\
      --gtest_filter='*OraclesBits'
  python3 tests/oracle/dequantize.py blocks.gguf
"""
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


for tensor in GGUFReader(sys.argv[1]).tensors:
    values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32) + np.float32(0)  # -0 becomes +0
    print(f"0x{fnv1a(values.tobytes()):016X}  {tensor.name} {tensor.tensor_type.name}")

// Weights that the GEMM multiplies in 8 bits with activations in 8 bits, by kind and shape.
#pragma once

#include <cstdint>

namespace nibble::cuda {

struct CodesShape {
  enum class Kind : uint8_t { kInt8, kE4m3, kE5m2, kE4m3Blocks, kE5m2Blocks };  // of w
  Kind kind = Kind::kInt8;
  int32_t cols = 0, out = 0;  // multiples of 16; cols of 128 for blocks
};
constexpr bool HasBlocks(CodesShape::Kind kind) {
  return kind == CodesShape::Kind::kE4m3Blocks || kind == CodesShape::Kind::kE5m2Blocks;
}
constexpr bool IsE5m2(CodesShape::Kind kind) {
  return kind == CodesShape::Kind::kE5m2 || kind == CodesShape::Kind::kE5m2Blocks;
}
// Blocks across a matrix, and the floats from one row of its blocks' scales to the next.
constexpr int32_t BlocksOf(int32_t extent) { return (extent + 127) / 128; }
constexpr int32_t BlockScaleStride(int32_t cols) { return (BlocksOf(cols) + 3) / 4 * 4; }

// Whether the extents are what the kernels around the GEMM, and cuBLASLt's loads of 16 bytes, need.
constexpr bool HasWholeTiles(const CodesShape& shape) {
  return shape.out % 16 == 0 && shape.cols % (HasBlocks(shape.kind) ? 128 : 16) == 0;
}
// cuBLASLt takes scales of 1 x 128 for rows of x in fours only.
constexpr int32_t RowsFor(CodesShape::Kind kind, int32_t rows) {
  return HasBlocks(kind) ? (rows + 3) / 4 * 4 : rows;
}

// Whether a device of this compute capability multiplies codes of that kind at all.
constexpr bool HasUnitsFor(CodesShape::Kind kind, int32_t major, int32_t minor) {
  if (kind == CodesShape::Kind::kInt8) return major >= 8;
  if (HasBlocks(kind)) return major == 9;
  return major > 8 || (major == 8 && minor >= 9);
}

}  // namespace nibble::cuda

// The CPU backend's weight layout, one for every instruction set.
//
// Rows come in blocks of 16, the last one padded with zeros. A row block holds its columns in
// order:
//   int4   32 columns are four 64-byte vectors. Byte 4 * row + k % 4 of vector j has column 4j + k
//   % 4 in its low
//          nibble and column 16 + 4j + k % 4 in its high one: a vector is the register operand of
//          VPDPBUSD, and four consecutive int8 activations are its broadcast operand, so no
//          shuffles are left.
//   int8   32 columns are eight such vectors, one byte a code, stored as code + 128 (VPDPBUSD takes
//   unsigned bytes). bf16, f32   [cols][16]
// Scales are an array of their own, [row block][cols / group][16], f16 where that is exact and f32
// otherwise, each 16 followed by their 16 offsets where the matrix has any. Int4 offsets of exactly
// -8 * scale (Q4_0) become a zero point. Int scales whose group is not a multiple of 32 are
// repeated to one every 16 columns, and int4 then widens to int8.
//
// Bytes: int4 with groups of 32 is 4.5 bits a weight (5 with offsets), int8 8.5.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight_memory.h"
#include "kernels/ops.h"

namespace nibble::cpu {

// Where the code of element (row, col) is, in bytes from the start of the codes; for int4 the byte
// that holds it.
constexpr int64_t Int4CodeAt(int32_t row, int32_t col, int32_t cols) {
  const int64_t chunk = static_cast<int64_t>(row / kBlockRows) * (cols / 32) + col / 32;
  return (chunk * 4 + col % 16 / 4) * 64 + row % kBlockRows * 4 + col % 4;
}
constexpr bool Int4IsHighNibble(int32_t col) { return col % 32 >= 16; }

constexpr int64_t Int8CodeAt(int32_t row, int32_t col, int32_t cols) {
  const int64_t chunk = static_cast<int64_t>(row / kBlockRows) * (cols / 32) + col / 32;
  return (chunk * 8 + col % 32 / 4) * 64 + row % kBlockRows * 4 + col % 4;
}

// In elements, for bf16 and f32.
constexpr int64_t FloatCodeAt(int32_t row, int32_t col, int32_t cols) {
  return (static_cast<int64_t>(row / kBlockRows) * cols + col) * kBlockRows + row % kBlockRows;
}

// In elements (f16 or f32): the scale of a group; its offset, if any, is 16 further.
constexpr int64_t ScaleAt(int32_t row, int32_t group, int32_t groups, bool has_offsets) {
  const int64_t index = static_cast<int64_t>(row / kBlockRows) * groups + group;
  return index * kBlockRows * (has_offsets ? 2 : 1) + row % kBlockRows;
}

class CpuMatrix final : public PackedMatrix {
 public:
  struct Shape {
    int32_t rows = 0;
    int32_t cols = 0;
    int32_t group = 0;
    int32_t zero_point = 0;
    Storage storage = Storage::kF32;
    bool scales_are_f16 = false;
    bool has_offsets = false;
  };

  // Zeros, cut from `memory`, or pieces of their own where that is null.
  CpuMatrix(const Shape& shape, WeightMemory* memory);

  int32_t rows() const override { return shape_.rows; }
  int32_t cols() const override { return shape_.cols; }
  int64_t size_bytes() const override {
    return num_blocks() * (block_code_bytes_ + block_scale_bytes_);
  }

  const Shape& shape() const { return shape_; }
  bool is_int() const {
    return shape_.storage == Storage::kInt4 || shape_.storage == Storage::kInt8;
  }
  int32_t num_blocks() const { return (shape_.rows + kBlockRows - 1) / kBlockRows; }
  WeightBlock block(int32_t index) const;

  // For the packer.
  uint8_t* codes() { return codes_.get(); }
  uint8_t* scales() { return scales_.get(); }

  // out[cols] = row `n` in f32, exactly as quant::DequantizeRow gives it.
  void DequantizeRow(int32_t n, float* out) const;

 private:
  float Scale(int64_t element) const;

  Shape shape_;
  int64_t block_code_bytes_ = 0;
  int64_t block_scale_bytes_ = 0;
  AlignedBytes codes_;
  AlignedBytes scales_;
};

}  // namespace nibble::cpu

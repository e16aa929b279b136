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

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight_memory.h"
#include "kernels/ops.h"
#include "kernels/quant/matrix.h"

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

// Part of the name of every file that holds packed bytes. One more with every change to the layout,
// to Shape, to its header (packed_bytes.h), or to what ChooseShape chooses: packed_bytes_test has a
// digest that notices.
inline constexpr uint32_t kPackedLayoutVersion = 1;

// What the values of a matrix let its layout leave out. Of a matrix in pieces, what all of them
// let it.
struct PackFacts {
  bool scales_fit_f16 = true;                  // offsets too
  bool offsets_are_minus_eight_scales = true;  // of int4, and those fit: Q4_0

  PackFacts operator&(const PackFacts& other) const {
    return {.scales_fit_f16 = scales_fit_f16 && other.scales_fit_f16,
            .offsets_are_minus_eight_scales =
                offsets_are_minus_eight_scales && other.offsets_are_minus_eight_scales};
  }
  bool operator==(const PackFacts&) const = default;
};
PackFacts FactsOf(const quant::Matrix& matrix);  // REQUIRES: one that Validate accepts

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

    bool operator==(const Shape&) const = default;
  };

  // Zeros, cut from `memory`, or pieces of their own where that is null.
  CpuMatrix(const Shape& shape, WeightMemory* memory);
  // Over sections that `owner` keeps, of SectionBytes(shape) each and 64-byte aligned.
  CpuMatrix(const Shape& shape, absl::Span<const absl::Span<const uint8_t>> sections,
            const std::shared_ptr<const void>& owner);

  // Codes, then scales. Row blocks follow each other in both: the sections of a matrix are those of
  // its pieces (of whole row blocks, packed with the same facts) one after another.
  static constexpr int kNumSections = 2;
  static std::array<int64_t, kNumSections> SectionBytes(const Shape& shape);
  std::array<absl::Span<uint8_t>, kNumSections> sections();  // for the packer
  std::array<absl::Span<const uint8_t>, kNumSections> sections() const;

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

// The layout of a matrix of `rows` rows that `matrix` is, or is a piece of.
CpuMatrix::Shape ChooseShape(const quant::Matrix& matrix, int32_t rows, const PackFacts& facts);
// PackCpu (linear.h) under facts that hold for `matrix`. REQUIRES: one that Validate accepts.
absl::StatusOr<std::unique_ptr<CpuMatrix>> PackWithFacts(const quant::Matrix& matrix,
                                                         const PackFacts& facts,
                                                         WeightMemory* memory);

}  // namespace nibble::cpu

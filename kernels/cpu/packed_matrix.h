// The CPU backend's weight layout, one for every instruction set.
//
// Rows come in blocks of 16, the last one padded with zeros. A row block holds its columns in
// order, integers in chunks of 32 columns made of 64-byte vectors. A vector is the register operand
// of VPDPBUSD: byte 4 * row + i has a code of column 4j + i, and four consecutive int8 activations
// are its broadcast operand, so no shuffles are left.
//   int4, lut4  four vectors, j = 0 .. 3: low nibbles for columns 0 .. 15, high ones for 16 .. 31
//   int5        those four for the low bits of the codes, then one with the fifth ones:
//               bit j belongs to columns 4j .. 4j + 3
//   int6        those four, then two with the upper two bits: vector 4 for columns 0 .. 15,
//               bits 2j and 2j + 1 for j, vector 5 the same for columns 16 .. 31
//   int8        eight vectors, codes stored as code + 128 (VPDPBUSD takes unsigned bytes)
//   e4m3, e5m2  [cols][16] bytes
//   bf16, f32   [cols][16]
//
// Scales are an array of their own, [row block][cols / group][16], f16 where that is exact and f32
// otherwise (lut4: e8m0 where all are powers of two), each 16 followed by their 16 offsets where
// the matrix has any. Int4 offsets of exactly -8 * scale (Q4_0), and int5 ones of -16 * scale
// (Q5_0), become a zero point. Where only int8 activations will meet them, int4's finite f16 scales
// and offsets are words instead (linear_kernels.h), of the same bytes: a row block's units, f32
// [16], then for groups of 32, for each pair, s16 scales [16][2] and, where the zero point is 0
// (even if all offsets are), offsets [16][2]; for larger groups [16] of each a group. Scales whose
// group is not a multiple of 32 are repeated to one every 16 columns. The k-quants keep what their
// files hold, per row block and super-block of 256 columns:
//   Q4_K, Q5_K  f16 d[16], f16 -dmin[16]; for each of eight sub-blocks 16 bytes: a nibble of the
//               scale, and above it one of the min; then 64 bytes with their upper two bits
//   Q6_K        f16 d[16]; for each of sixteen sub-blocks 16 s8 scales
//
// Bits a weight: int4 with groups of 32 is 4.5 (5 with offsets) and 32 a row, int5 one more,
// Q4_K 4.5, Q5_K 5.5, Q6_K 6.5625, int8 8.5, MXFP4 4.25, fp8 8 and little more. Rows that do not
// fill their last block cost as if they did.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight_memory.h"
#include "kernels/ops.h"
#include "kernels/quant/matrix.h"

namespace nibble::cpu {

// Which chunk of 32 columns element (row, col) is in, and its byte of a 64-byte vector.
constexpr int64_t ChunkAt(int32_t row, int32_t col, int32_t cols) {
  return static_cast<int64_t>(row / kBlockRows) * (cols / 32) + col / 32;
}
constexpr int32_t LaneByte(int32_t row, int32_t col) { return row % kBlockRows * 4 + col % 4; }

// Where the code of element (row, col) is, in bytes from the start of the codes: int4, and lut4.
constexpr int64_t Int4CodeAt(int32_t row, int32_t col, int32_t cols) {
  return ChunkAt(row, col, cols) * 256 + col % 16 / 4 * 64 + LaneByte(row, col);
}
constexpr bool Int4IsHighNibble(int32_t col) { return col % 32 >= 16; }

// The same for int5: the byte with the low four bits (Int4IsHighNibble says which), the byte with
// the fifth, and by how much that is shifted in it.
constexpr int64_t Int5LowAt(int32_t row, int32_t col, int32_t cols) {
  return ChunkAt(row, col, cols) * 320 + col % 16 / 4 * 64 + LaneByte(row, col);
}
constexpr int64_t Int5HighAt(int32_t row, int32_t col, int32_t cols) {
  return ChunkAt(row, col, cols) * 320 + 256 + LaneByte(row, col);
}
constexpr int Int5HighShift(int32_t col) { return col % 32 / 4; }

// The same for int6: the byte with the low four bits (Int4IsHighNibble says which), the byte with
// the upper two, and by how much those are shifted in it.
constexpr int64_t Int6LowAt(int32_t row, int32_t col, int32_t cols) {
  return ChunkAt(row, col, cols) * 384 + col % 16 / 4 * 64 + LaneByte(row, col);
}
constexpr int64_t Int6HighAt(int32_t row, int32_t col, int32_t cols) {
  return ChunkAt(row, col, cols) * 384 + 256 + col % 32 / 16 * 64 + LaneByte(row, col);
}
constexpr int Int6HighShift(int32_t col) { return col % 16 / 4 * 2; }

constexpr int64_t Int8CodeAt(int32_t row, int32_t col, int32_t cols) {
  return ChunkAt(row, col, cols) * 512 + col % 32 / 4 * 64 + LaneByte(row, col);
}

// In elements, for fp8, bf16 and f32.
constexpr int64_t FloatCodeAt(int32_t row, int32_t col, int32_t cols) {
  return (static_cast<int64_t>(row / kBlockRows) * cols + col) * kBlockRows + row % kBlockRows;
}

// In elements (f32, f16 or e8m0): the scale of a group; its offset, if any, is 16 further.
constexpr int64_t ScaleAt(int32_t row, int32_t group, int32_t groups, bool has_offsets) {
  const int64_t index = static_cast<int64_t>(row / kBlockRows) * groups + group;
  return index * kBlockRows * (has_offsets ? 2 : 1) + row % kBlockRows;
}

// In words behind the units of a row block: the scale of a group; its offset is `offset` further.
struct WordPlace {
  int64_t scale;
  int32_t offset;
};
constexpr WordPlace WordAt(int32_t row, int32_t index, int32_t group, bool offset_words) {
  const int32_t arrays = offset_words ? 2 : 1, n = row % kBlockRows;
  if (group > kGroup) return {int64_t{index} * kBlockRows * arrays + n, kBlockRows};
  return {int64_t{index / 2} * 2 * kBlockRows * arrays + 2 * n + index % 2, 2 * kBlockRows};
}

// The k-quants' scales, in bytes; `super` counts super-blocks of a row, `sub` the sub-blocks of
// one.
inline constexpr int32_t kSuperCols = 256;

constexpr int64_t SuperAt(int32_t row, int32_t super, int32_t cols, int32_t scale_bytes) {
  return (static_cast<int64_t>(row / kBlockRows) * (cols / kSuperCols) + super) * scale_bytes;
}
// From the super-block's start. d is the f16 at 2 * (row % 16) of both; -dmin is kQ4KMinAt further.
constexpr int32_t Q4KLowAt(int32_t row, int sub) {
  return kQ4KLowerAt + sub * 16 + row % kBlockRows;
}
constexpr int32_t Q4KHighAt(int32_t row, int sub) {
  return kQ4KUpperAt + sub % 4 * 16 + row % kBlockRows;
}
constexpr int Q4KHighShift(int sub, bool is_min) { return sub / 4 * 4 + (is_min ? 2 : 0); }
constexpr int32_t Q6KSubScaleAt(int32_t row, int sub) {
  return kQ6KSubScalesAt + sub * 16 + row % kBlockRows;
}

// Part of the name of every file that holds packed bytes. One more with every change to the layout,
// to Shape, to its header (packed_bytes.h), or to what ChooseShape chooses: packed_bytes_test has a
// digest that notices.
inline constexpr uint32_t kPackedLayoutVersion = 4;

// What the values of a matrix, and what it will meet, let its layout leave out. Of a matrix in
// pieces, what all of them let it.
struct PackFacts {
  bool scales_fit_f16 = true;  // offsets too
  bool scales_fit_e8m0 = true;
  bool offsets_are_a_zero_point = true;  // -8 scales of int4, -16 of int5, and those fit f16
  bool words_serve = true;  // for int4: int8 activations alone meet it, its scales are finite

  PackFacts operator&(const PackFacts& other) const {
    return {.scales_fit_f16 = scales_fit_f16 && other.scales_fit_f16,
            .scales_fit_e8m0 = scales_fit_e8m0 && other.scales_fit_e8m0,
            .offsets_are_a_zero_point = offsets_are_a_zero_point && other.offsets_are_a_zero_point,
            .words_serve = words_serve && other.words_serve};
  }
  bool operator==(const PackFacts&) const = default;
};
// REQUIRES: one that Validate accepts.
PackFacts FactsOf(const quant::Matrix& matrix, CpuActivations activations);

class CpuMatrix final : public PackedMatrix {
 public:
  struct Shape {
    int32_t rows = 0;
    int32_t cols = 0;
    int32_t group = 0;  // as WeightBlock's
    int32_t zero_point = 0;
    Storage storage = Storage::kF32;
    ScaleType scale_type = ScaleType::kF32;
    bool has_offsets = false;
    std::array<float, 16> table = {};  // kLut4

    bool has_words() const { return scale_type == ScaleType::kWords; }
    bool has_offset_words() const { return has_words() && zero_point == 0; }
    // Before each row block's scales.
    int32_t unit_bytes() const { return has_words() ? 4 * kBlockRows : 0; }
    int32_t num_groups() const { return group == 0 ? 0 : (cols + group - 1) / group; }
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
  bool is_int() const { return IsInt(shape_.storage); }
  int32_t num_blocks() const { return (shape_.rows + kBlockRows - 1) / kBlockRows; }
  // Codes begin on a multiple of 64 bytes where the columns are one of 32, scales of 32.
  WeightBlock block(int32_t index) const;

  // For the packer. The index functions count from the start of all codes; scales are found by row
  // block.
  uint8_t* codes() { return codes_.get(); }
  uint8_t* block_scales(int32_t index) {
    return scales_.get() + index * block_scale_bytes_ + shape_.unit_bytes();
  }
  float* block_units(int32_t index) {  // REQUIRES: shape().has_words()
    return reinterpret_cast<float*>(scales_.get() + index * block_scale_bytes_);
  }

  // out[cols] = row `n` in f32, exactly as quant::DequantizeRow gives it; of words, what they say.
  void DequantizeRow(int32_t n, float* out) const;

 private:
  Shape shape_;
  int64_t block_code_bytes_ = 0;
  int64_t block_scale_bytes_ = 0;
  AlignedBytes codes_;
  AlignedBytes scales_;
  LutTable lut_;
};

// The layout of a matrix of `rows` rows that `matrix` is, or is a piece of.
CpuMatrix::Shape ChooseShape(const quant::Matrix& matrix, int32_t rows, const PackFacts& facts);
// PackCpu (linear.h) under facts that hold for `matrix`. REQUIRES: one that Validate accepts.
absl::StatusOr<std::unique_ptr<CpuMatrix>> PackWithFacts(const quant::Matrix& matrix,
                                                         const PackFacts& facts,
                                                         WeightMemory* memory);

}  // namespace nibble::cpu

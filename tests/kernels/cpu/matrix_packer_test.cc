// Packing in pieces gives the bits of packing in one, whatever the pieces, their order and threads.
#include "kernels/cpu/matrix_packer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_bytes.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cpu {
namespace {

using quant::Format;
using quant::Matrix;
using ::testing::HasSubstr;

constexpr int32_t kMultiple = MatrixPacker::kRowMultiple;
constexpr auto kActivations = CpuActivations::kInt8;

Matrix Rows(const Matrix& matrix, int32_t first, int32_t count) {
  Matrix piece = matrix;
  const auto cut = [&](auto& all) {
    const size_t row = all.size() / matrix.rows;
    all = {all.begin() + row * first, all.begin() + row * (first + count)};
  };
  cut(piece.codes);
  cut(piece.scales);
  cut(piece.offsets);
  piece.rows = count;
  return piece;
}

struct Bits {
  std::string header;
  std::vector<std::vector<uint8_t>> sections;
  bool operator==(const Bits&) const = default;
};
Bits BitsOf(const PackedMatrix& matrix) {
  const PackedBytes bytes = BytesOf(matrix);
  Bits bits{.header = bytes.header, .sections = {}};
  for (const auto& section : bytes.sections) {
    bits.sections.emplace_back(section.begin(), section.end());
  }
  return bits;
}
Bits Whole(const Matrix& matrix) { return BitsOf(*PackCpu(matrix, kActivations).value()); }

// Adds all pieces of one multiple each, in the order of `order`; then again if Finish asks for it.
Bits InPieces(const Matrix& matrix, const std::vector<int32_t>& order, int* passes) {
  CpuMatrixPacker packer(matrix.rows, kActivations, nullptr);
  std::unique_ptr<PackedMatrix> packed;
  for (*passes = 0; packed == nullptr && *passes < 3; ++*passes) {
    for (const int32_t piece : order) {
      const int32_t first = piece * kMultiple;
      const int32_t count = std::min(kMultiple, matrix.rows - first);
      EXPECT_TRUE(packer.Add(first, Rows(matrix, first, count)).ok());
    }
    packed = packer.Finish();
  }
  return packed == nullptr ? Bits{} : BitsOf(*packed);
}

TEST(MatrixPackerTest, PiecesInAnyOrderGiveTheBitsOfTheWhole) {
  for (const Format format : {Format::kInt4Affine, Format::kInt8, Format::kBf16, Format::kF32}) {
    const bool is_float = format == Format::kBf16 || format == Format::kF32;
    for (const bool offsets : {false, true}) {
      for (const bool f16 : {false, true}) {
        const Matrix matrix = quant::RandomMatrix({.format = format,
                                                   .rows = 3 * kMultiple + 21,
                                                   .cols = 96,
                                                   .group = is_float ? 0 : 48,
                                                   .offsets = offsets && !is_float,
                                                   .f16_scales = f16},
                                                  5);
        int passes = 0;
        EXPECT_EQ(InPieces(matrix, {0, 1, 2, 3}, &passes), Whole(matrix));
        EXPECT_EQ(InPieces(matrix, {3, 1, 0, 2}, &passes), Whole(matrix));
        EXPECT_EQ(passes, 1);
      }
    }
  }
}

TEST(MatrixPackerTest, OnePieceIsTheWhole) {
  const Matrix matrix = quant::RandomMatrix({.rows = 37}, 1);
  CpuMatrixPacker packer(37, kActivations, nullptr);
  ASSERT_TRUE(packer.Add(0, matrix).ok());
  EXPECT_EQ(BitsOf(*packer.Finish()), Whole(matrix));
}

// The layout depends on all values: f16 scales only where every one is exact, Q4_0's zero point
// only where every offset allows it. A piece that contradicts the first costs one more pass, no
// bit.
TEST(MatrixPackerTest, AValueThatNeedsAWiderLayoutIsNoticedWhereverItIs) {
  Matrix q4_0 = quant::RandomMatrix({.rows = 4 * kMultiple, .offsets = true}, 2);
  for (size_t i = 0; i < q4_0.scales.size(); ++i) q4_0.offsets[i] = -8.0f * q4_0.scales[i];
  const Bits narrow = Whole(q4_0);
  const size_t groups = q4_0.scales.size();
  for (const size_t at : {size_t{0}, groups / 2, groups - 1}) {
    Matrix other_offset = q4_0;
    other_offset.offsets[at] = 1.0f;
    Matrix fine_scale = q4_0;
    fine_scale.scales[at] = 0.1f;  // no f16
    Matrix both = other_offset;
    both.scales[groups - 1 - at] = 0.1f;
    for (const Matrix& matrix : {other_offset, fine_scale, both}) {
      ASSERT_NE(Whole(matrix), narrow);
      for (const std::vector<int32_t>& order : {std::vector<int32_t>{0, 1, 2, 3}, {3, 2, 1, 0}}) {
        int passes = 0;
        EXPECT_EQ(InPieces(matrix, order, &passes), Whole(matrix)) << at;
        EXPECT_LE(passes, 2);
      }
    }
  }
}

TEST(MatrixPackerTest, ThreadsMayAddAtOnce) {
  const int32_t num_pieces = 32;
  Matrix matrix = quant::RandomMatrix({.rows = num_pieces * kMultiple, .offsets = true}, 7);
  matrix.scales.back() = 0.1f;
  CpuMatrixPacker packer(matrix.rows, kActivations, nullptr);
  std::unique_ptr<PackedMatrix> packed;
  for (int pass = 0; pass < 2 && packed == nullptr; ++pass) {
    std::atomic<int32_t> next{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int32_t i = next++; i < num_pieces; i = next++) {
          EXPECT_TRUE(packer.Add(i * kMultiple, Rows(matrix, i * kMultiple, kMultiple)).ok());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    packed = packer.Finish();
  }
  ASSERT_NE(packed, nullptr);
  EXPECT_EQ(BitsOf(*packed), Whole(matrix));
}

TEST(MatrixPackerTest, RefusesWhatPackRefuses) {
  Matrix broken = quant::RandomMatrix({.rows = 16}, 1);
  broken.codes.pop_back();
  CpuMatrixPacker packer(16, kActivations, nullptr);
  EXPECT_EQ(packer.Add(0, broken).code(), absl::StatusCode::kInvalidArgument);
  const Matrix narrow = quant::RandomMatrix({.format = Format::kInt8, .cols = 48, .group = 16}, 1);
  EXPECT_EQ(CpuMatrixPacker(16, kActivations, nullptr).Add(0, narrow).code(),
            absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace nibble::cpu

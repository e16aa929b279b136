#include "kernels/cpu/packed_matrix.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cpu {
namespace {

using quant::Format;
using ::testing::HasSubstr;

constexpr int32_t kRows = 48;
constexpr int32_t kCols = 96;

TEST(PackedMatrixTest, Int4IndexVisitsEveryNibbleOnce) {
  std::set<std::pair<int64_t, bool>> seen;
  for (int32_t n = 0; n < kRows; ++n) {
    for (int32_t k = 0; k < kCols; ++k) seen.emplace(Int4CodeAt(n, k, kCols), Int4IsHighNibble(k));
  }
  EXPECT_EQ(seen.size(), kRows * kCols);
  EXPECT_EQ(seen.begin()->first, 0);
  EXPECT_EQ(seen.rbegin()->first, kRows * kCols / 2 - 1);
}

TEST(PackedMatrixTest, Int8AndFloatIndexesVisitEveryPlaceOnce) {
  std::set<int64_t> int8, floats;
  for (int32_t n = 0; n < kRows; ++n) {
    for (int32_t k = 0; k < kCols; ++k) {
      int8.insert(Int8CodeAt(n, k, kCols));
      floats.insert(FloatCodeAt(n, k, kCols));
    }
  }
  for (const auto* seen : {&int8, &floats}) {
    EXPECT_EQ(seen->size(), kRows * kCols);
    EXPECT_EQ(*seen->begin(), 0);
    EXPECT_EQ(*seen->rbegin(), kRows * kCols - 1);
  }
}

TEST(PackedMatrixTest, ScaleIndexVisitsEveryScaleAndOffsetOnce) {
  for (const bool has_offsets : {false, true}) {
    std::set<int64_t> seen;
    for (int32_t n = 0; n < kRows; ++n) {
      for (int32_t g = 0; g < 3; ++g) {
        seen.insert(ScaleAt(n, g, 3, has_offsets));
        if (has_offsets) seen.insert(ScaleAt(n, g, 3, true) + kBlockRows);
      }
    }
    const int64_t expected = kRows * 3 * (has_offsets ? 2 : 1);
    EXPECT_EQ(static_cast<int64_t>(seen.size()), expected);
    EXPECT_EQ(*seen.rbegin(), expected - 1);
  }
}

// Four consecutive columns of a row lie in four consecutive bytes: what a VPDPBUSD lane multiplies.
TEST(PackedMatrixTest, FourColumnsAreOneLane) {
  for (int32_t k = 0; k < kCols; k += 4) {
    EXPECT_EQ(Int4CodeAt(5, k, kCols) % 64, 20);
    EXPECT_EQ(Int4CodeAt(5, k + 3, kCols), Int4CodeAt(5, k, kCols) + 3);
    EXPECT_EQ(Int8CodeAt(5, k, kCols) % 64, 20);
    EXPECT_EQ(Int8CodeAt(5, k + 3, kCols), Int8CodeAt(5, k, kCols) + 3);
  }
}

CpuMatrix& AsCpu(PackedMatrix& packed) { return static_cast<CpuMatrix&>(packed); }

std::unique_ptr<PackedMatrix> Pack(const quant::Matrix& matrix) {
  auto packed = PackCpu(matrix);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return std::move(*packed);
}

TEST(PackCpuTest, EveryFormatAndGroupComesBackBitForBit) {
  for (const Format format : {Format::kInt4Affine, Format::kInt8, Format::kBf16, Format::kF32}) {
    const bool is_float = format == Format::kBf16 || format == Format::kF32;
    for (const int32_t group : {16, 32, 48, 64, 96, 192}) {
      for (const bool offsets : {false, true}) {
        for (const bool f16 : {false, true}) {
          const quant::Matrix matrix = quant::RandomMatrix({.format = format,
                                                            .rows = 21,
                                                            .cols = 192,
                                                            .group = is_float ? 0 : group,
                                                            .offsets = offsets && !is_float,
                                                            .f16_scales = f16},
                                                           3);
          auto packed = Pack(matrix);
          EXPECT_EQ(packed->rows(), 21);
          EXPECT_EQ(packed->cols(), 192);
          for (int32_t n = 0; n < 21; ++n) {
            std::vector<float> expected(192), found(192);
            quant::DequantizeRow(matrix, n, expected.data());
            AsCpu(*packed).DequantizeRow(n, found.data());
            ASSERT_EQ(found, expected) << quant::FormatName(format) << " group " << group;
          }
        }
      }
    }
  }
}

TEST(PackCpuTest, ScalesAreF16WhereThatIsExact) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = 32, .cols = 64}, 1);
  EXPECT_EQ(Pack(matrix)->size_bytes(),
            32 * 64 / 2 + 32 * 2 * 2);  // 4.5 bits a weight... and 0.5 of f16
  matrix.scales[7] = 0.1f;
  EXPECT_EQ(Pack(matrix)->size_bytes(), 32 * 64 / 2 + 32 * 2 * 4);
}

TEST(PackCpuTest, OffsetsOfMinusEightScalesBecomeAZeroPoint) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = 16, .cols = 64}, 1);
  for (const float scale : matrix.scales) matrix.offsets.push_back(-8 * scale);
  auto folded = Pack(matrix);
  EXPECT_FALSE(AsCpu(*folded).shape().has_offsets);
  EXPECT_EQ(AsCpu(*folded).shape().zero_point, 8);
  for (int32_t n = 0; n < 16; ++n) {
    std::vector<float> expected(64), found(64);
    quant::DequantizeRow(matrix, n, expected.data());
    AsCpu(*folded).DequantizeRow(n, found.data());
    EXPECT_EQ(found, expected);
  }
  matrix.offsets[5] *= 2;
  EXPECT_TRUE(AsCpu(*Pack(matrix)).shape().has_offsets);
}

// Blocks begin on cache lines, so no vector load is split.
TEST(PackCpuTest, RowBlocksAreAligned) {
  auto packed = Pack(quant::RandomMatrix({.rows = 50, .cols = 96, .offsets = true}, 1));
  for (int32_t b = 0; b < AsCpu(*packed).num_blocks(); ++b) {
    const WeightBlock block = AsCpu(*packed).block(b);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.codes) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.scales) % 64, 0u);
  }
}

TEST(PackCpuTest, NamesTheFormatsWithoutAKernel) {
  const auto lut4 = PackCpu(quant::RandomMatrix({.format = Format::kLut4}, 1));
  EXPECT_EQ(lut4.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(lut4.status().message()), HasSubstr("lut4"));
  quant::Matrix fp8{.format = Format::kFp8,
                    .rows = 1,
                    .cols = 4,
                    .group = 4,
                    .codes = {1, 2, 3, 4},
                    .scales = {1}};
  EXPECT_THAT(std::string(PackCpu(fp8).status().message()), HasSubstr("fp8"));
  const auto narrow =
      PackCpu(quant::RandomMatrix({.format = Format::kInt8, .cols = 48, .group = 16}, 1));
  EXPECT_EQ(narrow.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(narrow.status().message()),
              HasSubstr("48 columns, needs a multiple of 32"));
}

TEST(PackCpuTest, RefusesWhatValidateRefuses) {
  quant::Matrix matrix = quant::RandomMatrix({}, 1);
  matrix.codes.pop_back();
  EXPECT_EQ(PackCpu(matrix).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble::cpu

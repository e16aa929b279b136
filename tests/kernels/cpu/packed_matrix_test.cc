#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cmath>
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

TEST(PackedMatrixTest, Int5IndexesVisitEveryBitOnce) {
  std::set<std::pair<int64_t, int>> seen;  // byte and bit
  for (int32_t n = 0; n < kRows; ++n) {
    for (int32_t k = 0; k < kCols; ++k) {
      for (int bit = 0; bit < 4; ++bit) {
        seen.emplace(Int5LowAt(n, k, kCols), bit + (Int4IsHighNibble(k) ? 4 : 0));
      }
      seen.emplace(Int5HighAt(n, k, kCols), Int5HighShift(k));
    }
  }
  EXPECT_EQ(seen.size(), kRows * kCols * 5);
  EXPECT_EQ(seen.begin()->first, 0);
  EXPECT_EQ(seen.rbegin()->first, kRows * kCols * 5 / 8 - 1);
}

TEST(PackedMatrixTest, Int6IndexesVisitEveryBitPairOnce) {
  std::set<std::pair<int64_t, int>> seen;  // byte and shift of two bits
  for (int32_t n = 0; n < kRows; ++n) {
    for (int32_t k = 0; k < kCols; ++k) {
      const int low_shift = Int4IsHighNibble(k) ? 4 : 0;
      seen.emplace(Int6LowAt(n, k, kCols), low_shift);
      seen.emplace(Int6LowAt(n, k, kCols), low_shift + 2);
      seen.emplace(Int6HighAt(n, k, kCols), Int6HighShift(k));
    }
  }
  EXPECT_EQ(seen.size(), kRows * kCols * 3);
  EXPECT_EQ(seen.begin()->first, 0);
  EXPECT_EQ(seen.rbegin()->first, kRows * kCols * 3 / 4 - 1);
}

TEST(PackedMatrixTest, KQuantScaleIndexesVisitEveryBitPairOnce) {
  std::set<std::pair<int64_t, int>> q4k, q6k;
  const auto byte = [](auto& seen, int64_t at) {
    for (const int shift : {0, 2, 4, 6}) seen.emplace(at, shift);
  };
  constexpr int32_t kWide = 512;
  for (int32_t n = 0; n < kRows; ++n) {
    for (int32_t super = 0; super < kWide / kSuperCols; ++super) {
      const int64_t at = SuperAt(n, super, kWide, kQ4KScaleBytes);
      for (int i = 0; i < 2; ++i) {
        byte(q4k, at + 2 * (n % 16) + i);
        byte(q4k, at + 32 + 2 * (n % 16) + i);
        byte(q6k, SuperAt(n, super, kWide, kQ6KScaleBytes) + 2 * (n % 16) + i);
      }
      for (int sub = 0; sub < 8; ++sub) {
        byte(q4k, at + Q4KLowAt(n, sub));
        q4k.emplace(at + Q4KHighAt(n, sub), Q4KHighShift(sub, false));
        q4k.emplace(at + Q4KHighAt(n, sub), Q4KHighShift(sub, true));
      }
      for (int sub = 0; sub < 16; ++sub) {
        byte(q6k, SuperAt(n, super, kWide, kQ6KScaleBytes) + Q6KSubScaleAt(n, sub));
      }
    }
  }
  const int64_t super_blocks = kRows / kBlockRows * kWide / kSuperCols;
  EXPECT_EQ(static_cast<int64_t>(q4k.size()), super_blocks * kQ4KScaleBytes * 4);
  EXPECT_EQ(q4k.rbegin()->first, super_blocks * kQ4KScaleBytes - 1);
  EXPECT_EQ(static_cast<int64_t>(q6k.size()), super_blocks * kQ6KScaleBytes * 4);
  EXPECT_EQ(q6k.rbegin()->first, super_blocks * kQ6KScaleBytes - 1);
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
    EXPECT_EQ(Int6LowAt(5, k, kCols) % 64, 20);
    EXPECT_EQ(Int6HighAt(5, k, kCols) % 64, 20);
    EXPECT_EQ(Int6HighAt(5, k + 3, kCols), Int6HighAt(5, k, kCols) + 3);
    EXPECT_EQ(Int6HighShift(k + 3), Int6HighShift(k));
    EXPECT_EQ(Int8CodeAt(5, k, kCols) % 64, 20);
    EXPECT_EQ(Int8CodeAt(5, k + 3, kCols), Int8CodeAt(5, k, kCols) + 3);
  }
}

CpuMatrix& AsCpu(PackedMatrix& packed) { return static_cast<CpuMatrix&>(packed); }

std::unique_ptr<PackedMatrix> Pack(const quant::Matrix& matrix,
                                   CpuActivations activations = CpuActivations::kF32) {
  auto packed = PackCpu(matrix, activations);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return std::move(*packed);
}

void ExpectSameRows(const quant::Matrix& matrix) {
  auto packed = Pack(matrix);
  EXPECT_EQ(packed->rows(), matrix.rows);
  EXPECT_EQ(packed->cols(), matrix.cols);
  for (int32_t n = 0; n < matrix.rows; ++n) {
    std::vector<float> expected(matrix.cols), found(matrix.cols);
    quant::DequantizeRow(matrix, n, expected.data());
    AsCpu(*packed).DequantizeRow(n, found.data());
    ASSERT_EQ(found, expected) << quant::FormatName(matrix.format) << " group " << matrix.group;
  }
}

TEST(PackCpuTest, EveryFormatAndGroupComesBackBitForBit) {
  for (const Format format : {Format::kInt4Affine, Format::kInt5Affine, Format::kLut4,
                              Format::kInt8, Format::kBf16, Format::kF32}) {
    const bool is_float = format == Format::kBf16 || format == Format::kF32;
    for (const int32_t group : {16, 32, 48, 64, 96, 192}) {
      for (const bool offsets : {false, true}) {
        for (const bool f16 : {false, true}) {
          ExpectSameRows(
              quant::RandomMatrix({.format = format,
                                   .rows = 21,
                                   .cols = 192,
                                   .group = is_float ? 0 : group,
                                   .offsets = offsets && !is_float && format != Format::kLut4,
                                   .f16_scales = f16},
                                  3));
        }
      }
    }
  }
}

TEST(PackCpuTest, KQuantsLutsAndFp8ComeBackBitForBit) {
  using Table = quant::RandomSpec::Table;
  for (const int32_t rows : {1, 16, 35}) {
    ExpectSameRows(quant::RandomMatrix({.format = Format::kQ4K, .rows = rows, .cols = 512}, 4));
    ExpectSameRows(quant::RandomMatrix({.format = Format::kQ5K, .rows = rows, .cols = 512}, 4));
    ExpectSameRows(quant::RandomMatrix({.format = Format::kQ6K, .rows = rows, .cols = 768}, 5));
    for (const Table table : {Table::kAny, Table::kInteger, Table::kHalves}) {
      for (const bool e8m0 : {false, true}) {
        ExpectSameRows(quant::RandomMatrix({.format = Format::kLut4,
                                            .rows = rows,
                                            .cols = 96,
                                            .table = table,
                                            .e8m0_scales = e8m0},
                                           6));
      }
    }
    for (const quant::Fp8 fp8 : {quant::Fp8::kE4m3, quant::Fp8::kE5m2}) {
      for (const bool by_row : {false, true}) {
        ExpectSameRows(quant::RandomMatrix({.format = Format::kFp8,
                                            .rows = rows,
                                            .cols = 77,
                                            .group = 77,
                                            .row_group = by_row ? 1 : rows,
                                            .fp8 = fp8},
                                           7));
      }
    }
  }
  ExpectSameRows(quant::RandomMatrix(
      {.format = Format::kFp8, .rows = 150, .cols = 300, .group = 128, .row_group = 128}, 8));
}

// What a file of these formats costs on disk is what it costs in memory.
TEST(PackCpuTest, NativeFormatsCostTheirFilesBytes) {
  const auto bytes = [](const quant::RandomSpec& spec) {
    return Pack(quant::RandomMatrix(spec, 1))->size_bytes();
  };
  EXPECT_EQ(bytes({.format = Format::kQ4K, .rows = 32, .cols = 512}), 32 * 2 * 144);
  EXPECT_EQ(bytes({.format = Format::kQ5K, .rows = 32, .cols = 512}), 32 * 2 * 176);
  EXPECT_EQ(bytes({.format = Format::kInt5Affine, .rows = 32, .cols = 64, .offsets = true}),
            32 * 2 * 24);  // Q5_1
  EXPECT_EQ(bytes({.format = Format::kQ6K, .rows = 32, .cols = 512}), 32 * 2 * 210);
  EXPECT_EQ(bytes({.format = Format::kLut4, .rows = 32, .cols = 64}), 32 * 2 * 18);  // IQ4_NL
  EXPECT_EQ(bytes({.format = Format::kLut4, .rows = 32, .cols = 64, .e8m0_scales = true}),
            32 * 2 * 17);  // MXFP4
}

TEST(PackCpuTest, ScalesAreF16WhereThatIsExact) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = 32, .cols = 64, .offsets = true}, 1);
  EXPECT_EQ(Pack(matrix)->size_bytes(), 32 * 64 / 2 + 32 * 2 * 4);
  EXPECT_EQ(Pack(matrix, CpuActivations::kInt8)->size_bytes(),
            32 * 64 / 2 + 32 * 2 * 4 + 32 * 4);  // words of as many bytes, and their units
  matrix.scales[7] = 0.1f;
  for (const auto activations : {CpuActivations::kF32, CpuActivations::kInt8}) {
    EXPECT_EQ(Pack(matrix, activations)->size_bytes(), 32 * 64 / 2 + 32 * 2 * 8);
  }
}

// Infinity and NaN stay what they are: words have neither.
TEST(PackCpuTest, ScalesThatAreNotFiniteAreKeptAsF16) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const float value : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    for (const bool in_offsets : {false, true}) {
      quant::Matrix matrix = quant::RandomMatrix({.rows = 16, .cols = 64, .offsets = true}, 1);
      (in_offsets ? matrix.offsets : matrix.scales)[5] = value;  // of row 2
      const auto packed = Pack(matrix, CpuActivations::kInt8);
      EXPECT_EQ(AsCpu(*packed).shape().scale_type, ScaleType::kF16);
      std::vector<float> row(matrix.cols);
      AsCpu(*packed).DequantizeRow(2, row.data());
      EXPECT_FALSE(std::isfinite(row[33]));
    }
  }
}

// The smallest power of two for which scales, and offsets centred at code 8, fit their words.
TEST(PackCpuTest, UnitsAreTheSmallestThatWordsFit) {
  const auto largest_words = [](const quant::Matrix& matrix, int32_t row) {
    const auto packed = Pack(matrix, CpuActivations::kInt8);
    const float unit = AsCpu(*packed).block(row / 16).units[row % 16];
    int exponent;
    EXPECT_EQ(std::frexp(unit, &exponent), 0.5f) << "row " << row;
    const size_t groups = matrix.scales.size() / matrix.rows;
    float scale = 0, offset = 0;
    for (size_t i = row * groups; i < (row + 1) * groups; ++i) {
      const float own = matrix.offsets.empty() ? 0 : matrix.offsets[i];
      scale = std::max(scale, std::fabs(matrix.scales[i]) / unit);
      offset = std::max(offset, std::fabs(own + 8 * matrix.scales[i]) / unit / kOffsetWordUnits);
    }
    return std::pair(scale, offset);
  };
  quant::Matrix matrix = quant::RandomMatrix({.rows = 37, .cols = 96, .offsets = true}, 5);
  for (int32_t n = 0; n < matrix.rows; ++n) {
    const auto [scale, offset] = largest_words(matrix, n);
    EXPECT_TRUE(scale <= kMaxScaleWord && offset <= kMaxOffsetWord) << "row " << n;
    EXPECT_TRUE(2 * scale > kMaxScaleWord || 2 * offset > kMaxOffsetWord) << "row " << n;
  }
  std::fill(matrix.scales.begin(), matrix.scales.end(), 0.0f);
  std::fill(matrix.offsets.begin(), matrix.offsets.end(), 0.0f);
  const auto zeros = Pack(matrix, CpuActivations::kInt8);
  EXPECT_EQ(AsCpu(*zeros).block(0).units[3], 1.0f);
  EXPECT_EQ(AsCpu(*zeros).block(2).units[15], 1.0f);                 // a row of padding
  std::fill(matrix.scales.begin(), matrix.scales.end(), -0x1p-24f);  // the smallest f16
  EXPECT_LE(largest_words(matrix, 0).first, kMaxScaleWord);
  std::fill(matrix.scales.begin(), matrix.scales.end(), 65504.0f);  // the largest
  EXPECT_LE(largest_words(matrix, 0).first, kMaxScaleWord);
  // Others have none.
  for (const bool f16 : {false, true}) {
    const auto packed = Pack(
        quant::RandomMatrix(
            {.format = f16 ? Format::kInt8 : Format::kInt4Affine, .rows = 16, .f16_scales = f16},
            5),
        CpuActivations::kInt8);
    EXPECT_EQ(AsCpu(*packed).block(0).units, nullptr);
  }
}

// scale * (code - 8) + centred offset, each within half of its word; the f32 reading of a weight
// without offsets is scale * code.
TEST(PackCpuTest, WordsAreTheNearestToScalesAndOffsets) {
  for (const int32_t group : {32, 96, 288}) {
    for (const bool offsets : {false, true}) {
      quant::Matrix matrix =
          quant::RandomMatrix({.rows = 21, .cols = 288, .group = group, .offsets = offsets}, 9);
      for (size_t i = 0; i < matrix.scales.size(); i += 2) matrix.scales[i] *= 0x1p6f;
      const auto packed = Pack(matrix, CpuActivations::kInt8);
      for (int32_t n = 0; n < matrix.rows; ++n) {
        const float unit = AsCpu(*packed).block(n / 16).units[n % 16];
        std::vector<float> expected(matrix.cols), found(matrix.cols);
        quant::DequantizeRow(matrix, n, expected.data());
        AsCpu(*packed).DequantizeRow(n, found.data());
        for (int32_t k = 0; k < matrix.cols; ++k) {
          ASSERT_NEAR(found[k], expected[k], unit * (offsets ? 8 * 0.5f + 8 : 15 * 0.5f) * 1.01f)
              << "group " << group << " row " << n << " column " << k;
        }
      }
    }
  }
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

  quant::Matrix q5_0 =
      quant::RandomMatrix({.format = Format::kInt5Affine, .rows = 16, .cols = 64}, 1);
  for (const float scale : q5_0.scales) q5_0.offsets.push_back(-16 * scale);
  EXPECT_EQ(AsCpu(*Pack(q5_0)).shape().zero_point, 16);
  EXPECT_EQ(Pack(q5_0)->size_bytes(), 16 * 2 * 22);
  ExpectSameRows(q5_0);
}

// Blocks begin on cache lines, so no vector load is split.
TEST(PackCpuTest, RowBlocksAreAligned) {
  auto packed = Pack(quant::RandomMatrix({.rows = 50, .cols = 96, .offsets = true}, 1));
  for (int32_t b = 0; b < AsCpu(*packed).num_blocks(); ++b) {
    const WeightBlock block = AsCpu(*packed).block(b);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.codes) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.scales) % 64, 0u);
  }
  packed = Pack(quant::RandomMatrix(
      {.format = Format::kLut4, .rows = 50, .cols = 96, .e8m0_scales = true}, 1));
  for (int32_t b = 0; b < AsCpu(*packed).num_blocks(); ++b) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(AsCpu(*packed).block(b).scales) % 32, 0u);
  }
}

TEST(PackCpuTest, IntegersNeedColumnsInMultiplesOf32) {
  const auto narrow =
      PackCpu(quant::RandomMatrix({.format = Format::kInt8, .cols = 48, .group = 16}, 1),
              CpuActivations::kF32);
  EXPECT_EQ(narrow.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(narrow.status().message()),
              HasSubstr("48 columns, needs a multiple of 32"));
}

TEST(PackCpuTest, RefusesWhatValidateRefuses) {
  quant::Matrix matrix = quant::RandomMatrix({}, 1);
  matrix.codes.pop_back();
  EXPECT_EQ(PackCpu(matrix, CpuActivations::kF32).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble::cpu

#include "kernels/quant/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<float> Row(const Matrix& matrix, int32_t n) {
  std::vector<float> row(matrix.cols);
  DequantizeRow(matrix, n, row.data());
  return row;
}

TEST(MatrixTest, DequantizesInt4WithTheEvenColumnInTheLowNibble) {
  const Matrix matrix{.format = Format::kInt4Affine,
                      .rows = 2,
                      .cols = 4,
                      .group = 2,
                      .codes = {0x21, 0xF0, 0x43, 0x65},
                      .scales = {1, 10, 2, 0.5f},
                      .offsets = {0, -1, 100, 0.25f}};
  EXPECT_THAT(Row(matrix, 0), ElementsAre(1, 2, -1, 149));
  EXPECT_THAT(Row(matrix, 1), ElementsAre(106, 108, 2.75f, 3.25f));
}

TEST(MatrixTest, DequantizesLut4ThroughItsTable) {
  Matrix matrix{.format = Format::kLut4,
                .rows = 1,
                .cols = 4,
                .group = 4,
                .codes = {0x10, 0xF2},
                .scales = {2}};
  for (int i = 0; i < 16; ++i) matrix.table[i] = static_cast<float>(i * i);
  EXPECT_THAT(Row(matrix, 0), ElementsAre(0, 2, 8, 450));
}

TEST(MatrixTest, DequantizesInt8Signed) {
  const Matrix matrix{.format = Format::kInt8,
                      .rows = 1,
                      .cols = 4,
                      .group = 4,
                      .codes = {0x80, 0xFF, 0x00, 0x7F},
                      .scales = {0.5f},
                      .offsets = {1}};
  EXPECT_THAT(Row(matrix, 0), ElementsAre(-63, 0.5f, 1, 64.5f));
}

TEST(MatrixTest, DequantizesEveryE4m3CodeToItsValue) {
  Matrix matrix{.format = Format::kFp8, .rows = 1, .cols = 256, .group = 256, .scales = {1}};
  for (int i = 0; i < 256; ++i) matrix.codes.push_back(static_cast<uint8_t>(i));
  const std::vector<float> row = Row(matrix, 0);
  EXPECT_EQ(row[0x01], 0x1p-9f);  // smallest subnormal
  EXPECT_EQ(row[0x08], 0x1p-6f);  // smallest normal
  EXPECT_EQ(row[0x38], 1.0f);
  EXPECT_EQ(row[0x7E], 448.0f);  // largest
  EXPECT_TRUE(std::isnan(row[0x7F]));
  for (int i = 0; i < 0x7F; ++i) {
    EXPECT_EQ(row[i], std::ldexp(i < 8 ? i : 8 + i % 8, std::max(i / 8, 1) - 10)) << i;
    EXPECT_EQ(row[i + 0x80], -row[i]) << i;
  }
}

TEST(MatrixTest, DequantizesEveryE5m2CodeToItsValue) {
  Matrix matrix{.format = Format::kFp8, .rows = 1, .cols = 256, .group = 256, .fp8 = Fp8::kE5m2};
  matrix.scales = {1};
  for (int i = 0; i < 256; ++i) matrix.codes.push_back(static_cast<uint8_t>(i));
  const std::vector<float> row = Row(matrix, 0);
  EXPECT_EQ(row[0x01], 0x1p-16f);  // smallest subnormal
  EXPECT_EQ(row[0x04], 0x1p-14f);  // smallest normal
  EXPECT_EQ(row[0x3C], 1.0f);
  EXPECT_EQ(row[0x7B], 57344.0f);  // largest
  EXPECT_TRUE(std::isinf(row[0x7C]));
  EXPECT_TRUE(std::isnan(row[0x7F]));
  for (int i = 0; i < 0x7C; ++i) {
    EXPECT_EQ(row[i], std::ldexp(i < 4 ? i : 4 + i % 4, std::max(i / 4, 1) - 17)) << i;
    EXPECT_EQ(row[i + 0x80], -row[i]) << i;
  }
}

TEST(MatrixTest, DequantizesQ4KWithScalesOfScales) {
  Matrix matrix{.format = Format::kQ4K, .rows = 1, .cols = 512, .group = 256};
  matrix.codes.assign(256, 0xF2);  // even columns 2, odd ones 15
  matrix.scales = {0.5f, 2};
  matrix.offsets = {-1, -0.25f};
  matrix.sub_scales.assign(32, 0);
  matrix.sub_scales[2] = 63;  // columns 32 .. 63: a
  matrix.sub_scales[3] = 7;   // and b
  matrix.sub_scales[30] = 1;  // columns 480 .. 511
  matrix.sub_scales[31] = 40;
  ASSERT_TRUE(Validate(matrix).ok()) << Validate(matrix);
  const std::vector<float> row = Row(matrix, 0);
  EXPECT_EQ(row[31], 0);
  EXPECT_EQ(row[32], 0.5f * 63 * 2 - 7);
  EXPECT_EQ(row[63], 0.5f * 63 * 15 - 7);
  EXPECT_EQ(row[64], 0);
  EXPECT_EQ(row[510], 2 * 2 - 10);
  EXPECT_EQ(row[511], 2 * 15 - 10);
}

TEST(MatrixTest, DequantizesFiveBitCodesUnsigned) {
  Matrix matrix{.format = Format::kInt5Affine,
                .rows = 1,
                .cols = 2,
                .group = 2,
                .codes = {31, 16},
                .scales = {2},
                .offsets = {-1}};
  EXPECT_THAT(Row(matrix, 0), ElementsAre(61, 31));
  matrix = RandomMatrix({.format = Format::kQ5K, .rows = 2, .cols = 512}, 4);
  const int32_t k = 300;
  const float scale = matrix.scales[3] * static_cast<float>(matrix.sub_scales[32 + 18]);
  const float offset = matrix.offsets[3] * static_cast<float>(matrix.sub_scales[32 + 19]);
  EXPECT_EQ(Row(matrix, 1)[k], scale * static_cast<float>(matrix.codes[512 + k]) + offset);
}

TEST(MatrixTest, DequantizesQ6KWithScalesOfSixteen) {
  Matrix matrix{.format = Format::kQ6K, .rows = 2, .cols = 256, .group = 256};
  matrix.codes.assign(512, static_cast<uint8_t>(-32));
  matrix.codes[256 + 255] = 31;
  matrix.scales = {1, 0.5f};
  matrix.sub_scales.assign(32, 0);
  matrix.sub_scales[1] = static_cast<uint8_t>(-128);  // row 0, columns 16 .. 31
  matrix.sub_scales[31] = 127;                        // row 1, the last sixteen
  ASSERT_TRUE(Validate(matrix).ok()) << Validate(matrix);
  EXPECT_EQ(Row(matrix, 0)[15], 0);
  EXPECT_EQ(Row(matrix, 0)[16], 4096);
  EXPECT_EQ(Row(matrix, 1)[240], -32 * 63.5f);
  EXPECT_EQ(Row(matrix, 1)[255], 31 * 63.5f);
}

TEST(MatrixTest, DequantizesFp8WithScalesByTensorRowOrBlock) {
  Matrix matrix{.format = Format::kFp8, .rows = 129, .cols = 130, .group = 130, .row_group = 129};
  matrix.codes.assign(129 * 130, 0x38);  // 1.0
  matrix.scales = {3};
  EXPECT_TRUE(Validate(matrix).ok());
  EXPECT_EQ(Row(matrix, 128)[129], 3);
  matrix.row_group = 1;
  matrix.scales.assign(129, 1);
  matrix.scales[128] = 5;
  EXPECT_TRUE(Validate(matrix).ok());
  EXPECT_EQ(Row(matrix, 128)[0], 5);
  matrix.group = matrix.row_group = 128;
  matrix.scales = {1, 2, 3, 4};  // 2 x 2 blocks, the last ones partial
  EXPECT_TRUE(Validate(matrix).ok());
  EXPECT_EQ(Row(matrix, 127)[127], 1);
  EXPECT_EQ(Row(matrix, 127)[128], 2);
  EXPECT_EQ(Row(matrix, 128)[127], 3);
  EXPECT_EQ(Row(matrix, 128)[128], 4);
}

TEST(MatrixTest, DequantizesFloatsLittleEndian) {
  const Matrix bf16{
      .format = Format::kBf16, .rows = 1, .cols = 2, .codes = {0x80, 0x3F, 0x00, 0xC0}};
  EXPECT_THAT(Row(bf16, 0), ElementsAre(1, -2));
  const Matrix f32{
      .format = Format::kF32, .rows = 2, .cols = 1, .codes = {0, 0, 0x80, 0x3F, 0, 0, 0x20, 0xC1}};
  EXPECT_THAT(Row(f32, 1), ElementsAre(-10));
}

TEST(MatrixTest, F16ScalesAreRecognizedExactly) {
  Matrix matrix = RandomMatrix({.offsets = true}, 1);
  EXPECT_TRUE(ScalesFitF16(matrix));
  matrix.offsets.back() = 0x1p-24f;  // smallest f16 subnormal
  EXPECT_TRUE(ScalesFitF16(matrix));
  matrix.offsets.back() = 0x1p-25f;
  EXPECT_FALSE(ScalesFitF16(matrix));
  matrix.offsets.clear();
  matrix.scales[0] = 1.0f + 0x1p-11f;
  EXPECT_FALSE(ScalesFitF16(matrix));
  matrix.scales[0] = 65536.0f;  // would become an infinity
  EXPECT_FALSE(ScalesFitF16(matrix));
}

TEST(MatrixTest, E8m0ScalesAreRecognizedExactly) {
  Matrix matrix = RandomMatrix({.format = Format::kLut4, .e8m0_scales = true}, 1);
  EXPECT_TRUE(ScalesFitE8m0(matrix));
  for (const float good : {0x1p-126f, 0x1p127f}) {
    matrix.scales[3] = good;
    EXPECT_TRUE(ScalesFitE8m0(matrix)) << good;
  }
  for (const float bad : {0.0f, -1.0f, 0x1p-127f, 3.0f, std::nanf(""), HUGE_VALF}) {
    matrix.scales[3] = bad;
    EXPECT_FALSE(ScalesFitE8m0(matrix)) << bad;
  }
  matrix = RandomMatrix({.offsets = true, .e8m0_scales = true}, 1);
  EXPECT_FALSE(ScalesFitE8m0(matrix));
}

struct Broken {
  std::string name;
  std::function<void(Matrix&)> damage;
  std::string message;
  RandomSpec spec;
};

class ValidateTest : public ::testing::TestWithParam<Broken> {};

TEST_P(ValidateTest, RefusesABrokenFieldByName) {
  Matrix matrix = RandomMatrix(GetParam().spec, 1);
  ASSERT_TRUE(Validate(matrix).ok()) << Validate(matrix);
  GetParam().damage(matrix);
  const absl::Status status = Validate(matrix);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

const RandomSpec kInt4 = {.format = Format::kInt4Affine, .offsets = true};
const RandomSpec kQ4K = {.format = Format::kQ4K, .cols = 256};
const RandomSpec kQ6K = {.format = Format::kQ6K, .cols = 256};
const RandomSpec kFp8Spec = {.format = Format::kFp8, .group = 64};
const RandomSpec kF32Spec = {.format = Format::kF32, .group = 0};

INSTANTIATE_TEST_SUITE_P(
    All, ValidateTest,
    ::testing::Values(
        Broken{"Format", [](Matrix& m) { m.format = static_cast<Format>(77); }, "format 77", kInt4},
        Broken{"NoRows", [](Matrix& m) { m.rows = 0; }, "each side needs", kInt4},
        Broken{"NegativeCols", [](Matrix& m) { m.cols = -32; }, "each side needs", kInt4},
        Broken{"HugeSide", [](Matrix& m) { m.rows = 1 << 30 | 1; }, "each side needs", kInt4},
        Broken{"OddNibbles", [](Matrix& m) { m.cols = 63; }, "even columns", kInt4},
        Broken{"NoGroup", [](Matrix& m) { m.group = 0; }, "group 0 does not divide", kInt4},
        Broken{"NegativeGroup", [](Matrix& m) { m.group = -32; }, "group -32 does not", kInt4},
        Broken{"GroupNotDividing", [](Matrix& m) { m.group = 48; }, "group 48 does not", kInt4},
        Broken{"NarrowGroup", [](Matrix& m) { m.group = 8; }, "multiple of 16", kInt4},
        Broken{"GroupOnFloats", [](Matrix& m) { m.group = 32; }, "group is 32, needs 0", kF32Spec},
        Broken{"ShortCodes", [](Matrix& m) { m.codes.pop_back(); },
               "codes has 511 entries, needs 512", kInt4},
        Broken{"LongCodes", [](Matrix& m) { m.codes.push_back(0); }, "codes has 4097", kF32Spec},
        Broken{"ShortScales", [](Matrix& m) { m.scales.pop_back(); },
               "scales has 31 entries, needs 32", kInt4},
        Broken{"ScalesOnFloats", [](Matrix& m) { m.scales.push_back(1); },
               "scales has 1 entries, needs 0", kF32Spec},
        Broken{"ShortOffsets", [](Matrix& m) { m.offsets.pop_back(); },
               "offsets has 31 entries, needs 32", kInt4},
        Broken{"KQuantGroup", [](Matrix& m) { m.group = 32; }, "group is 32, needs 256", kQ4K},
        Broken{"KQuantCols", [](Matrix& m) { m.cols = 288; }, "does not divide", kQ6K},
        Broken{"ShortSubScales", [](Matrix& m) { m.sub_scales.pop_back(); },
               "sub_scales has 255 entries, needs 256", kQ4K},
        Broken{"SubScalesOnInt4", [](Matrix& m) { m.sub_scales.push_back(0); },
               "sub_scales has 1 entries, needs 0", kInt4},
        Broken{"NoMins", [](Matrix& m) { m.offsets.clear(); }, "offsets has 0 entries", kQ4K},
        Broken{"WideSubScale", [](Matrix& m) { m.sub_scales[9] = 64; }, "above 63", kQ4K},
        Broken{"WideCode", [](Matrix& m) { m.codes[9] = 32; }, "not in -32 .. 31", kQ6K},
        Broken{"SixthBit",
               [](Matrix& m) { m.codes[9] = 32; },
               "above 31",
               {.format = Format::kInt5Affine}},
        Broken{"ScaleNotF16", [](Matrix& m) { m.scales[1] = 0.1f; }, "exactly an f16", kQ6K},
        Broken{"Fp8Nan", [](Matrix& m) { m.codes[70] = 0xFF; }, "NaN or infinite", kFp8Spec},
        Broken{"Fp8Infinity",
               [](Matrix& m) {
                 m.fp8 = Fp8::kE5m2;
                 m.codes.assign(m.codes.size(), 0x7C);
               },
               "NaN or infinite", kFp8Spec},
        Broken{"TableNan",
               [](Matrix& m) { m.table[15] = std::nanf(""); },
               "an entry of the table",
               {.format = Format::kLut4}},
        Broken{"RowGroupOnInt4", [](Matrix& m) { m.row_group = 16; }, "row_group is 16", kInt4},
        Broken{"OffsetsOnLut",
               [](Matrix& m) { m.offsets.assign(32, 0.0f); },
               "offsets are not",
               {.format = Format::kLut4}}),
    [](const auto& info) { return info.param.name; });

TEST(MatrixTest, ValidateRefusesFp8ScalesOfNoKnownShape) {
  Matrix matrix{.format = Format::kFp8, .rows = 3, .cols = 200, .codes = {}};
  matrix.codes.resize(600);
  struct Shape {
    int32_t row_group, group;
    size_t scales;
  };
  for (const Shape good : {Shape{3, 200, 1}, Shape{1, 200, 3}, Shape{128, 128, 2}}) {
    matrix.row_group = good.row_group;
    matrix.group = good.group;
    matrix.scales.assign(good.scales, 1.0f);
    EXPECT_TRUE(Validate(matrix).ok()) << Validate(matrix);
    matrix.scales.push_back(1.0f);
    EXPECT_THAT(std::string(Validate(matrix).message()), HasSubstr("scales has"));
  }
  for (const Shape bad : {Shape{2, 200, 2}, Shape{1, 100, 6}, Shape{128, 64, 4}, Shape{0, 0, 0}}) {
    matrix.row_group = bad.row_group;
    matrix.group = bad.group;
    matrix.scales.assign(bad.scales, 1.0f);
    EXPECT_THAT(std::string(Validate(matrix).message()), HasSubstr("a scale covers"));
  }
}

TEST(MatrixTest, EveryFormatHasANameAndRandomMatricesOfItAreValid) {
  const RandomSpec specs[] = {{},
                              {.format = Format::kInt5Affine, .offsets = true},
                              {.format = Format::kQ5K, .cols = 256},
                              {.format = Format::kLut4},
                              {.format = Format::kInt8},
                              kQ4K,
                              kQ6K,
                              kFp8Spec,
                              {.format = Format::kBf16, .group = 0},
                              kF32Spec};
  for (const RandomSpec& spec : specs) {
    EXPECT_NE(FormatName(spec.format), "unknown");
    EXPECT_TRUE(Validate(RandomMatrix(spec, 2)).ok()) << Validate(RandomMatrix(spec, 2));
  }
}

TEST(MatrixTest, ValidateTakesARowWideGroupOfAnyWidth) {
  EXPECT_TRUE(Validate(RandomMatrix({.format = Format::kInt8, .cols = 50, .group = 50}, 1)).ok());
}

}  // namespace
}  // namespace nibble::quant

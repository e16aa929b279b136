#include "engine/weights/canonical.h"

#include <cstring>
#include <vector>

#include "engine/weights/ggml_types.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble {
namespace {

struct Case {
  GgmlType type;
  const char* canonical;
  int64_t bytes_of_256;  // on a device
  bool wider;
};

class CanonicalOf : public ::testing::TestWithParam<Case> {};

constexpr int32_t kRows = 5;
constexpr int32_t kCols = 512;

// Values, not bits: an element of zero may be -0 in the file's formula.
void ExpectSameValues(GgmlType type, const std::vector<uint8_t>& bytes) {
  std::vector<float> expected(kRows * kCols);
  DequantizeBlocks(type, bytes, kRows * kCols, expected.data());
  const absl::StatusOr<quant::Matrix> matrix = ToCanonical(type, bytes, kRows, kCols);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  ASSERT_TRUE(quant::Validate(*matrix).ok()) << quant::Validate(*matrix);
  std::vector<float> row(kCols);
  for (int32_t n = 0; n < kRows; ++n) {
    quant::DequantizeRow(*matrix, n, row.data());
    for (int32_t k = 0; k < kCols; ++k)
      ASSERT_EQ(row[k], expected[n * kCols + k]) << "row " << n << " column " << k;
  }
}

TEST_P(CanonicalOf, RandomBlocksKeepTheirValues) {
  for (uint32_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    ExpectSameValues(GetParam().type,
                     testing::RandomBlocks(GetParam().type, kRows * kCols, seed, 0.1f));
  }
}

// Scales that are zero, negative, subnormal or the largest f16: products must stay exact at the
// ends, too.
TEST_P(CanonicalOf, ExtremeScalesKeepTheirValues) {
  const GgmlType type = GetParam().type;
  const GgmlTypeInfo info = TypeInfo(static_cast<int32_t>(type));
  if (info.block_elements == 1 || type == GgmlType::kMXFP4 || type == GgmlType::kNVFP4) {
    return;  // no f16 scales
  }
  for (const uint16_t half : {0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x3C01}) {
    std::vector<uint8_t> bytes = testing::RandomBlocks(type, kRows * kCols, half, 1.0f);
    const size_t field = type == GgmlType::kQ6_K   ? 208
                         : type == GgmlType::kQ3_K ? 108
                         : type == GgmlType::kQ2_K ? 80
                                                   : 0;
    for (size_t at = field; at < bytes.size(); at += info.block_bytes) {
      const auto value =
          static_cast<uint16_t>(half ^ (at / info.block_bytes % 2 == 0 ? 0 : 0x8000));
      std::memcpy(bytes.data() + at, &value, 2);
    }
    SCOPED_TRACE(::testing::Message() << "f16 bits " << half);
    ExpectSameValues(type, bytes);
  }
}

TEST_P(CanonicalOf, FormNamesBytesAndWidthAreAsDocumented) {
  const std::optional<CanonicalForm> form = CanonicalFormOf(GetParam().type);
  ASSERT_TRUE(form.has_value());
  EXPECT_EQ(CanonicalName(*form), GetParam().canonical);
  EXPECT_EQ(CanonicalBytes(*form, 256), GetParam().bytes_of_256);
  EXPECT_EQ(form->wider, GetParam().wider);
}

TEST_P(CanonicalOf, NarrowScalesArePromisedExactlyWhereTheyHold) {
  const CanonicalForm form = *CanonicalFormOf(GetParam().type);
  if (form.group == 0) return;  // no scales
  const std::vector<uint8_t> bytes = testing::RandomBlocks(GetParam().type, kRows * kCols, 3, 0.1f);
  const absl::StatusOr<quant::Matrix> matrix = ToCanonical(GetParam().type, bytes, kRows, kCols);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(quant::ScalesFitE8m0(*matrix), form.scale_bytes == 1);
  if (form.scale_bytes != 1) {
    EXPECT_EQ(quant::ScalesFitF16(*matrix), form.scale_bytes == 2);
  }
}

TEST_P(CanonicalOf, AScaleThatIsNotFiniteIsDataLoss) {
  std::vector<uint8_t> bytes = testing::RandomBlocks(GetParam().type, kRows * kCols, 4, 0.1f);
  std::memset(
      bytes.data() + bytes.size() - TypeInfo(static_cast<int32_t>(GetParam().type)).block_bytes,
      0xFF,
      TypeInfo(static_cast<int32_t>(GetParam().type))
          .block_bytes);  // all ones is NaN in every float
  EXPECT_EQ(ToCanonical(GetParam().type, bytes, kRows, kCols).status().code(),
            absl::StatusCode::kDataLoss);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, CanonicalOf,
                         ::testing::Values(Case{GgmlType::kF32, "f32", 1024, false},
                                           Case{GgmlType::kF16, "f32", 1024, true},
                                           Case{GgmlType::kBF16, "bf16", 512, false},
                                           Case{GgmlType::kQ4_0, "int4-affine g32", 144, false},
                                           Case{GgmlType::kQ4_1, "int4-affine g32", 160, false},
                                           Case{GgmlType::kQ5_0, "int5-affine g32", 176, false},
                                           Case{GgmlType::kQ5_1, "int5-affine g32", 192, false},
                                           Case{GgmlType::kQ8_0, "int8 g32", 272, false},
                                           Case{GgmlType::kQ4_K, "q4_k", 144, false},
                                           Case{GgmlType::kQ5_K, "q5_k", 176, false},
                                           Case{GgmlType::kQ6_K, "q6_k", 210, false},
                                           Case{GgmlType::kIQ4_NL, "lut4 g32", 144, false},
                                           Case{GgmlType::kMXFP4, "lut4 g32", 136, false},
                                           Case{GgmlType::kQ2_K, "int4-affine g16", 256, true},
                                           Case{GgmlType::kQ3_K, "q6_k", 210, true},
                                           Case{GgmlType::kIQ4_XS, "lut4 g32", 160, true},
                                           Case{GgmlType::kNVFP4, "lut4 g16", 160, true}),
                         [](const auto& info) {
                           return TypeInfo(static_cast<int32_t>(info.param.type)).name;
                         });

// Every exponent a file may hold, the subnormal ones too; the scale of 12 must stay finite.
TEST(Canonical, Mxfp4ExponentsKeepTheirValues) {
  for (int exponent = 0; exponent <= kMaxMxfp4Exponent; ++exponent) {
    std::vector<uint8_t> bytes = testing::RandomBlocks(GgmlType::kMXFP4, kRows * kCols, 9, 0.1f);
    for (size_t at = 0; at < bytes.size(); at += 17) bytes[at] = static_cast<uint8_t>(exponent);
    ExpectSameValues(GgmlType::kMXFP4, bytes);
  }
  std::vector<uint8_t> block(17, 0x77);
  block[0] = kMaxMxfp4Exponent + 1;
  EXPECT_FALSE(ToCanonical(GgmlType::kMXFP4, block, 1, 32).ok());
}

// Every scale a file may hold; a sign bit belongs to no unsigned float.
TEST(Canonical, Nvfp4ScalesKeepTheirValues) {
  for (int scale = 0; scale < 128; ++scale) {
    std::vector<uint8_t> bytes = testing::RandomBlocks(GgmlType::kNVFP4, kRows * kCols, 9, 0.1f);
    for (size_t at = 0; at < bytes.size(); at += 36) bytes[at + 2] = static_cast<uint8_t>(scale);
    ExpectSameValues(GgmlType::kNVFP4, bytes);
  }
  std::vector<uint8_t> block(36, 0x11);
  block[3] = 0x80;
  EXPECT_EQ(ToCanonical(GgmlType::kNVFP4, block, 1, 64).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(Canonical, TypesThatAreNotReadableHaveNoForm) {
  for (const int32_t type : {16, 17, 18, 19, 21, 22, 29, 34, 35, 41, 42}) {
    EXPECT_FALSE(CanonicalFormOf(static_cast<GgmlType>(type)).has_value());
    EXPECT_FALSE(TypeInfo(type).readable);
  }
}

}  // namespace
}  // namespace nibble

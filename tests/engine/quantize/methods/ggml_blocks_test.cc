#include "engine/quantize/methods/ggml_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "engine/weights/ggml_types.h"
#include "tests/engine/quantize/methods/correlated_inputs.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

MatrixF ReadBack(const QuantizedWeight& weight) {
  const GgmlType type = *GgmlTypeOf(weight.scheme);
  const std::vector<uint8_t> blocks = ToGgmlBlocks(weight).value();
  MatrixF values(weight.rows, weight.cols);
  DequantizeBlocks(type, blocks, values.size(), values.data());
  return values;
}

// What the file's reader sees is what GPTQ chose, bit for bit.
TEST(GgmlBlocksTest, GptqsCodesGoIntoQ4_0Exactly) {
  const MatrixF weight = testing::NormalWeights(40, 128, 1);
  const MatrixF hessian = testing::HessianOf(testing::CorrelatedInputs(500, 128, 2));
  for (const char* scheme : {"int4-full-g32", "int4-sym-g32"}) {
    const auto quantized =
        QuantizeGptq(weight, hessian, *ParseScheme(scheme), {.order = ColumnOrder::kByActivation});
    ASSERT_TRUE(quantized.ok());
    EXPECT_EQ(ReadBack(*quantized), Dequantize(*quantized)) << scheme;
  }
}

// Of any width and any group of whole blocks: the scale is repeated, the values are the same bits.
TEST(GgmlBlocksTest, SymmetricCodesKeepTheirBitsWhateverSharesAScale) {
  const MatrixF weight = testing::NormalWeights(24, 128, 1);
  for (const auto& [scheme, type] :
       std::vector<std::pair<const char*, GgmlType>>{{"int2-full-g64", GgmlType::kQ4_0},
                                                     {"int3-sym-g32", GgmlType::kQ4_0},
                                                     {"int4-full-g128", GgmlType::kQ4_0},
                                                     {"int4-sym-channel", GgmlType::kQ4_0},
                                                     {"int5-full-g32", GgmlType::kQ5_0},
                                                     {"int5-sym-tensor", GgmlType::kQ5_0},
                                                     {"int6-full-g32", GgmlType::kQ8_0},
                                                     {"int8-sym-channel", GgmlType::kQ8_0},
                                                     {"int8-full-g32-mse", GgmlType::kQ8_0}}) {
    const Scheme stored = WithBlockScales(*ParseScheme(scheme));
    const QuantizedWeight quantized = RoundToNearest(weight, stored, 1);
    EXPECT_EQ(GgmlTypeOf(stored), type) << scheme;
    EXPECT_EQ(ReadBack(quantized), Dequantize(quantized)) << scheme;
  }
}

TEST(GgmlBlocksTest, OffsetsDifferByTheirHalfFloats) {
  const MatrixF weight = testing::NormalWeights(40, 128, 1);
  for (const auto& [scheme, type] :
       std::vector<std::pair<const char*, GgmlType>>{{"int3-asym-g64", GgmlType::kQ4_1},
                                                     {"int4-asym-g32", GgmlType::kQ4_1},
                                                     {"int5-asym-g32", GgmlType::kQ5_1}}) {
    const QuantizedWeight quantized = RoundToNearest(weight, *ParseScheme(scheme), 1);
    EXPECT_EQ(GgmlTypeOf(quantized.scheme), type);
    const MatrixF values = Dequantize(quantized);
    EXPECT_LT((ReadBack(quantized) - values).cwiseAbs().maxCoeff(),
              0x1p-11f * values.cwiseAbs().maxCoeff());
  }
}

// Without f16 scales before, they are rounded when they are stored.
TEST(GgmlBlocksTest, WiderScalesAreRounded) {
  const QuantizedWeight quantized =
      RoundToNearest(testing::NormalWeights(8, 64, 1), *ParseScheme("int8-sym-g32"), 1);
  const MatrixF values = Dequantize(quantized);
  EXPECT_NE(ReadBack(quantized), values);
  EXPECT_LT((ReadBack(quantized) - values).cwiseAbs().maxCoeff(),
            0x1p-11f * values.cwiseAbs().maxCoeff());
}

// A scale that an f16 holds times a zero point need not be one that an f16 holds.
TEST(GgmlBlocksTest, AnOffsetBeyondF16IsRefused) {
  MatrixF weight = testing::NormalWeights(3, 128, 1);
  weight(2, 70) = -70000;
  for (const char* scheme : {"int4-asym-g32", "int5-asym-g32"}) {
    const absl::Status status =
        ToGgmlBlocks(RoundToNearest(weight, *ParseScheme(scheme), 1)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("row 2, group 2 is -"));
  }
  EXPECT_TRUE(ReadBack(RoundToNearest(weight, *ParseScheme("int4-full-g32"), 1)).allFinite());
}

TEST(GgmlBlocksTest, OtherSchemesHaveNoType) {
  for (const char* scheme : {"int4-full-g16", "int4-sym-g48", "nf4-b32", "int6-asym-g32",
                             "int8-asym-g32", "fp4-b64", "e4m3-tensor", "e4m3-block"}) {
    EXPECT_EQ(GgmlTypeOf(*ParseScheme(scheme)), std::nullopt) << scheme;
  }
}

}  // namespace
}  // namespace nibble::quantize

#include "engine/quantize/methods/ggml_blocks.h"

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
  const std::vector<uint8_t> blocks = ToGgmlBlocks(weight);
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

TEST(GgmlBlocksTest, OthersDifferByTheirHalfFloats) {
  const MatrixF weight = testing::NormalWeights(40, 128, 1);
  for (const auto& [scheme, type] : std::vector<std::pair<const char*, GgmlType>>{
           {"int4-asym-g32", GgmlType::kQ4_1}, {"int8-sym-g32", GgmlType::kQ8_0}}) {
    const QuantizedWeight quantized = RoundToNearest(weight, *ParseScheme(scheme), 1);
    EXPECT_EQ(GgmlTypeOf(quantized.scheme), type);
    const MatrixF values = Dequantize(quantized);
    EXPECT_LT((ReadBack(quantized) - values).cwiseAbs().maxCoeff(),
              0x1p-11f * values.cwiseAbs().maxCoeff());
  }
}

TEST(GgmlBlocksTest, OtherSchemesHaveNoType) {
  for (const char* scheme : {"int4-full-g64", "int3-full-g32", "nf4-b32", "int8-sym-channel",
                             "int8-asym-g32", "e4m3-tensor"}) {
    EXPECT_EQ(GgmlTypeOf(*ParseScheme(scheme)), std::nullopt) << scheme;
  }
}

}  // namespace
}  // namespace nibble::quantize

#include "engine/quantize/calibration/replaced_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/model/tiny_decoder.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

class ReplacedWeightsTest : public ::testing::Test {
 protected:
  const ModelConfig config_ = TinyConfig();
  const TinyWeights original_{config_, 1};
  ReplacedWeights replaced_{original_};
};

TEST_F(ReplacedWeightsTest, WhatIsNotReplacedIsTheOriginal) {
  EXPECT_EQ(replaced_.LoadMatrix("blk.0.attn_q.weight", 64, 64)->codes,
            original_.LoadMatrix("blk.0.attn_q.weight", 64, 64)->codes);
  EXPECT_EQ(*replaced_.LoadVector("output_norm.weight", 64),
            *original_.LoadVector("output_norm.weight", 64));
  EXPECT_FALSE(replaced_.Identity().ok());
}

// Rows in any ranges give the values of the whole, shared scales included.
TEST_F(ReplacedWeightsTest, RangesOfRowsAreRangesOfTheWhole) {
  const MatrixF weight = testing::NormalWeights(300, 256, 2);
  for (const char* scheme : {"int4-full-g64", "int8-sym-tensor", "e4m3-tensor", "e4m3-block",
                             "e4m3-channel", "nf4-b64", "int4-asym-g128"}) {
    const QuantizedWeight quantized = RoundToNearest(weight, *ParseScheme(scheme), 1);
    ASSERT_TRUE(replaced_.Matrix("m", Dequantize(quantized), &quantized).ok());
    const quant::Matrix whole = *replaced_.LoadMatrix("m", 300, 256);
    for (RowRange range : {RowRange{0, 128}, RowRange{128, 128}, RowRange{256, 44}}) {
      const auto part = replaced_.LoadRows("m", 300, 256, range);
      ASSERT_TRUE(part.ok());
      ASSERT_EQ(quant::Validate(*part), absl::OkStatus()) << scheme;
      std::vector<float> a(256), b(256);
      for (int32_t n = 0; n < range.count; ++n) {
        quant::DequantizeRow(*part, n, a.data());
        quant::DequantizeRow(whole, range.first + n, b.data());
        ASSERT_EQ(a, b) << scheme;
      }
    }
  }
  EXPECT_TRUE(replaced_.canonical());
}

TEST_F(ReplacedWeightsTest, ValuesWithoutCodesAreF32) {
  const MatrixF values = testing::NormalWeights(4, 32, 3);
  ASSERT_TRUE(replaced_.Matrix("m", values, nullptr).ok());
  EXPECT_FALSE(replaced_.canonical());
  EXPECT_EQ(*LoadDense(replaced_, "m", 4, 32), values);
  EXPECT_THAT(replaced_.LoadMatrix("m", 4, 16).status().message(), ::testing::HasSubstr("[4, 32]"));
}

TEST_F(ReplacedWeightsTest, VectorsAreChecked) {
  ASSERT_TRUE(replaced_.Vector("v", VectorF::Constant(3, 2.0f)).ok());
  EXPECT_EQ(*replaced_.LoadVector("v", 3), std::vector<float>(3, 2.0f));
  EXPECT_FALSE(replaced_.LoadVector("v", 4).ok());
}

}  // namespace
}  // namespace nibble::quantize

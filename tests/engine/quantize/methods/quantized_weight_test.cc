#include "engine/quantize/methods/quantized_weight.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

// What a server would multiply with is what the method meant, bit for bit.
TEST(ToCanonicalTest, HasTheSameValues) {
  const MatrixF weight = testing::NormalWeights(130, 256, 1);
  for (const char* name : {"int2-sym-g64", "int2-full-g64", "int3-asym-g128", "int4-sym-g128",
                           "int4-full-g32", "int4-asym-g64", "int5-sym-g64", "int8-sym-channel",
                           "int8-asym-g128", "int8-sym-tensor", "nf4-b64", "nf4-b64-dq", "fp4-b64",
                           "e4m3-tensor", "e4m3-channel", "e4m3-block", "e5m2-tensor"}) {
    const QuantizedWeight quantized = RoundToNearest(weight, *ParseScheme(name), 1);
    const absl::StatusOr<quant::Matrix> matrix = ToCanonical(quantized);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_EQ(quant::Validate(*matrix), absl::OkStatus()) << name;
    const MatrixF values = Dequantize(quantized);
    std::vector<float> row(256);
    for (int32_t n = 0; n < weight.rows(); ++n) {
      quant::DequantizeRow(*matrix, n, row.data());
      for (int32_t k = 0; k < 256; ++k) {
        // s * (q - z) and s * q + m round differently in the last place.
        ASSERT_NEAR(row[k], values(n, k), 1e-6f * values.cwiseAbs().maxCoeff()) << name;
      }
    }
  }
}

TEST(ToCanonicalTest, ColumnsOutOfGroupOrderAreRefused) {
  QuantizedWeight weight = MakeQuantizedWeight(*ParseScheme("int4-sym-g64"), 2, 128);
  weight.group_of_column.assign(128, 0);
  EXPECT_EQ(ToCanonical(weight).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(QuantizedWeightTest, ColumnsTakeTheGroupTheyAreGiven) {
  QuantizedWeight weight = MakeQuantizedWeight(*ParseScheme("int4-sym-g64"), 1, 128);
  weight.codes.assign(128, 1);
  weight.params[0].scale = 1;
  weight.params[1].scale = 2;
  weight.group_of_column.assign(128, 0);
  weight.group_of_column[5] = 1;
  const MatrixF values = Dequantize(weight);
  EXPECT_EQ(values(0, 4), 1.0f);
  EXPECT_EQ(values(0, 5), 2.0f);
  EXPECT_EQ(values(0, 127), 1.0f);
}

TEST(SignalToNoiseTest, IsInDecibels) {
  MatrixF weight(1, 2), values(1, 2);
  weight << 10, 0;
  values << 10, 1;
  EXPECT_NEAR(SignalToNoise(weight, values), 20, 1e-9);
  EXPECT_EQ(SignalToNoise(weight, weight), INFINITY);
  EXPECT_EQ(SignalToNoise(MatrixF::Zero(1, 2), MatrixF::Zero(1, 2)), INFINITY);
}

}  // namespace
}  // namespace nibble::quantize

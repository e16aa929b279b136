#include "engine/quantize/methods/incoherence.h"

#include <gtest/gtest.h>

#include <vector>

#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/quantize/methods/correlated_inputs.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

TEST(RotationTest, IsOrthogonal) {
  for (int32_t n : {1, 2, 64, 96, 576, 768}) {
    const Rotation rotation(n, 7);
    MatrixF all = MatrixF::Identity(n, n);
    for (int32_t i = 0; i < n; ++i) rotation.Forward(all.row(i).data());
    EXPECT_LT((all * all.transpose() - MatrixF::Identity(n, n)).norm(), 1e-4f) << n;
    std::vector<float> x(n);
    for (int32_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 7) - 3;
    std::vector<float> y = x;
    rotation.Forward(y.data());
    rotation.Inverse(y.data());
    for (int32_t i = 0; i < n; ++i) EXPECT_NEAR(x[i], y[i], 1e-4f);
  }
}

TEST(RotationTest, UsesTheLargestPowerOfTwo) {
  EXPECT_EQ(Rotation(768, 1).block(), 256);
  EXPECT_EQ(Rotation(576, 1).block(), 64);
  EXPECT_EQ(Rotation(7, 1).block(), 1);
}

TEST(RotationTest, SeedsDifferAndRepeat) {
  std::vector<float> a(64, 1), b(64, 1), c(64, 1);
  Rotation(64, 1).Forward(a.data());
  Rotation(64, 1).Forward(b.data());
  Rotation(64, 2).Forward(c.data());
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

TEST(IncoherenceTest, TheLossIsTheSameInTheRotatedSpace) {
  const MatrixF weight = testing::NormalWeights(64, 128, 1);
  const MatrixF hessian = testing::HessianOf(testing::CorrelatedInputs(300, 128, 2));
  const Incoherence incoherence(64, 128, 3);
  EXPECT_LT((incoherence.RotateBack(incoherence.Rotate(weight)) - weight).norm(),
            1e-5f * weight.norm());
  const MatrixF other = testing::NormalWeights(64, 128, 4);
  const double loss = OutputError(weight, other, hessian);
  EXPECT_NEAR(OutputError(incoherence.Rotate(weight), incoherence.Rotate(other),
                          incoherence.RotateHessian(hessian)),
              loss, 1e-4 * loss);
}

// What it is for: weights with a few large ones, at 2 and 3 bits.
TEST(IncoherenceTest, RescuesWeightsWithOutliersAtTwoAndThreeBits) {
  MatrixF weight = testing::NormalWeights(128, 256, 1);
  for (int32_t i = 0; i < 128; ++i) weight(i, (i * 37) % 256) *= 25;
  const MatrixF hessian = MatrixF::Identity(256, 256);
  const Incoherence incoherence(128, 256, 5);
  for (const char* scheme : {"int2-full-channel-mse", "int3-full-channel", "int3-asym-g128"}) {
    const auto rounded = [&](const MatrixF& w) {
      return Dequantize(RoundToNearest(w, *ParseScheme(scheme), 1));
    };
    const double plain = OutputError(weight, rounded(weight), hessian);
    const double rotated =
        OutputError(weight, incoherence.RotateBack(rounded(incoherence.Rotate(weight))), hessian);
    std::printf("%s: %.3f of rounding's error\n", scheme, rotated / plain);
    EXPECT_LT(rotated, 0.75 * plain) << scheme;
  }
}

}  // namespace
}  // namespace nibble::quantize

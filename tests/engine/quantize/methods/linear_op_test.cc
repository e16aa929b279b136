// W8A8, LLM.int8() and SmoothQuant on inputs with outlier channels, which is what they are for.
#include "engine/quantize/methods/linear_op.h"

#include <gtest/gtest.h>

#include "engine/quantize/methods/awq.h"
#include "engine/quantize/methods/smooth_quant.h"
#include "tests/engine/quantize/methods/correlated_inputs.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

class LinearOpTest : public ::testing::Test {
 protected:
  LinearOpTest() {
    for (int32_t j = 5; j < 256; j += 64) outliers_.col(j) *= 80;
  }
  // Noise over signal of the outputs, of the channels that are not outliers' doing too.
  double Noise(const LinearOp& op, const MatrixF& x) const {
    const MatrixF wanted = x * weight_.transpose();
    return (op.Apply(x) - wanted).norm() / wanted.norm();
  }

  const MatrixF weight_ = testing::NormalWeights(64, 256, 1);
  const MatrixF even_ = testing::NormalWeights(100, 256, 2, 1.0f);
  MatrixF outliers_ = even_;
};

TEST_F(LinearOpTest, Int8BothWaysIsNearTheDenseProduct) {
  EXPECT_LT(Noise(*MakeDenseOp(weight_), even_), 1e-6);
  EXPECT_LT(Noise(*MakeW8A8Op(weight_), even_), 0.02);
  EXPECT_LT(Noise(*MakeW8A8Op(weight_, even_.cwiseAbs().maxCoeff()), even_), 0.025);
}

TEST_F(LinearOpTest, AFixedRangeSaturates) {
  EXPECT_GT(Noise(*MakeW8A8Op(weight_, 0.5f), even_), 0.3);
}

// The outputs that the outlier channels do not reach show what they cost: their weights are zero.
TEST_F(LinearOpTest, OutliersRuinInt8AndDecompositionRescuesIt) {
  MatrixF weight = weight_;
  for (int32_t j = 5; j < 256; j += 64) weight.col(j).setZero();
  const MatrixF wanted = outliers_ * weight.transpose();
  const auto noise = [&](const LinearOp& op) {
    return (op.Apply(outliers_) - wanted).norm() / wanted.norm();
  };
  const double naive = noise(*MakeW8A8Op(weight));
  const double decomposed = noise(*MakeOutlierOp(weight));
  std::printf("noise: naive %.4f, decomposed %.4f\n", naive, decomposed);
  EXPECT_GT(naive, 0.2);
  EXPECT_LT(decomposed, 0.02);
}

TEST_F(LinearOpTest, WithoutOutliersTheDecompositionIsPlainInt8) {
  const MatrixF x = even_.cwiseMax(-5.9f).cwiseMin(5.9f);
  EXPECT_EQ(MakeOutlierOp(weight_)->Apply(x), MakeW8A8Op(weight_)->Apply(x));
}

TEST_F(LinearOpTest, SmoothingMovesOutliersIntoTheWeights) {
  const MatrixF* const weights[] = {&weight_};
  const VectorF input_max = outliers_.cwiseAbs().colwise().maxCoeff().transpose();
  MatrixF smooth = weight_, x = outliers_;
  const VectorF scales = SmoothScales(weights, input_max, kSmoothAlpha);
  ScaleColumns(smooth, scales);
  ScaleColumns(x, scales.cwiseInverse());
  const MatrixF wanted = outliers_ * weight_.transpose();
  EXPECT_LT((x * smooth.transpose() - wanted).norm(), 1e-5 * wanted.norm());  // the same function
  // Half of the spread is gone from the inputs.
  const auto spread = [](const MatrixF& m) {
    const auto most = m.cwiseAbs().colwise().maxCoeff();
    return most.maxCoeff() / most.minCoeff();
  };
  EXPECT_LT(spread(x), spread(outliers_) / 5);
  const double naive = (MakeW8A8Op(weight_)->Apply(outliers_) - wanted).norm();
  const double smoothed = (MakeW8A8Op(smooth)->Apply(x) - wanted).norm();
  std::printf("error: naive %.4f, smoothed %.4f\n", naive, smoothed);
  EXPECT_LT(smoothed, 0.4 * naive);
}

// What --smooth-alpha's help says of its ends: 0 is not "off".
TEST_F(LinearOpTest, AlphaZeroMovesTheWeightsSpreadOut) {
  MatrixF weight = weight_;
  for (int32_t j = 0; j < 256; ++j) weight.col(j) *= static_cast<float>(1 + j % 7);
  const MatrixF* const weights[] = {&weight};
  const VectorF input_max = outliers_.cwiseAbs().colwise().maxCoeff().transpose();
  const VectorF weight_max = weight.cwiseAbs().colwise().maxCoeff().transpose();
  const VectorF none = SmoothScales(weights, input_max, 0);
  EXPECT_TRUE(none.cwiseProduct(weight_max).isApproxToConstant(1, 1e-5f));
  EXPECT_FALSE(none.isApproxToConstant(none[0], 0.5f)) << "so the inputs are scaled, too";
  EXPECT_TRUE(SmoothScales(weights, input_max, 1).isApprox(input_max, 1e-5f));
}

TEST_F(LinearOpTest, DeadChannelsAreNotScaled) {
  const MatrixF* const weights[] = {&weight_};
  EXPECT_EQ(SmoothScales(weights, VectorF::Zero(256), kSmoothAlpha), VectorF::Ones(256));
}

}  // namespace
}  // namespace nibble::quantize

#include "engine/quantize/methods/awq.h"

#include <gtest/gtest.h>

#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/quantize/methods/correlated_inputs.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

class AwqTest : public ::testing::Test {
 protected:
  AwqTest() {
    for (int32_t j = 0; j < 256; j += 37) inputs_.col(j) *= 30;  // a few salient channels
    hessian_ = testing::HessianOf(inputs_);
    mean_abs_ = inputs_.cwiseAbs().colwise().mean().transpose();
  }
  AwqScales Search(const char* scheme) const {
    const MatrixF* const both[] = {&first_, &second_};
    return SearchAwqScales(both, hessian_, mean_abs_, *ParseScheme(scheme), 1);
  }

  MatrixF inputs_ = testing::CorrelatedInputs(800, 256, 3);
  MatrixF hessian_;
  VectorF mean_abs_;
  const MatrixF first_ = testing::NormalWeights(64, 256, 1);
  const MatrixF second_ = testing::NormalWeights(32, 256, 2);
};

TEST_F(AwqTest, SalientChannelsGetFinerSteps) {
  for (const char* scheme : {"int4-asym-g128", "int4-full-g64", "int3-full-g128"}) {
    const AwqScales found = Search(scheme);
    std::printf("%s: alpha %.2f, %.3f of rounding's error\n", scheme, found.alpha,
                found.error / found.rounding);
    EXPECT_GT(found.alpha, 0);
    EXPECT_LT(found.error, 0.55 * found.rounding);
    float salient = 0;
    for (int32_t j = 0; j < 256; j += 37) salient += found.scales[j] / 7;
    EXPECT_GT(salient, 1.5f * found.scales.mean());
  }
}

// What the search reports is what comes out: the outputs' mean squared error, from the inputs.
TEST_F(AwqTest, TheErrorIsThatOfTheOutputs) {
  const AwqScales found = Search("int4-asym-g128");
  double sum = 0;
  for (const MatrixF* weight : {&first_, &second_}) {
    MatrixF scaled = *weight;
    ScaleColumns(scaled, found.scales);
    const MatrixF values = Dequantize(RoundToNearest(scaled, *ParseScheme("int4-asym-g128"), 1));
    MatrixF divided = inputs_;
    ScaleColumns(divided, found.scales.cwiseInverse());
    sum += (inputs_ * weight->transpose() - divided * values.transpose()).squaredNorm();
  }
  EXPECT_NEAR(found.error, sum / inputs_.rows(), 0.01 * found.error);
}

TEST_F(AwqTest, ScalingIsUndoneExactlyByTheProducer) {
  const VectorF scales = Search("int4-asym-g128").scales;
  const MatrixF producer = testing::NormalWeights(256, 64, 9);  // its rows are the input's channels
  const MatrixF x = testing::CorrelatedInputs(10, 64, 8);
  const MatrixF wanted = (x * producer.transpose()) * first_.transpose();
  MatrixF scaled = first_, divided = producer;
  ScaleColumns(scaled, scales);
  DivideRows(divided, scales);
  const MatrixF got = (x * divided.transpose()) * scaled.transpose();
  EXPECT_LT((got - wanted).norm(), 1e-5f * wanted.norm());
  const MatrixF h = DivideHessian(hessian_, scales);
  EXPECT_NEAR(h(3, 37), hessian_(3, 37) / (scales[3] * scales[37]), 1e-5 * std::fabs(h(3, 37)));
}

TEST_F(AwqTest, ChannelsThatNeverFireAreLeftFinite) {
  mean_abs_.setZero();
  hessian_.setZero();
  const AwqScales found = Search("int4-asym-g128");
  EXPECT_TRUE(found.scales.allFinite());
  EXPECT_GT(found.scales.minCoeff(), 0);
}

}  // namespace
}  // namespace nibble::quantize

#include "engine/quantize/calibration/input_stats.h"

#include <gtest/gtest.h>

#include "tests/engine/quantize/methods/correlated_inputs.h"

namespace nibble::quantize {
namespace {

TEST(InputStatsTest, SumsUpWhatArrives) {
  const MatrixF a = testing::CorrelatedInputs(50, 130, 1),
                b = testing::CorrelatedInputs(30, 130, 2);
  MatrixF all(80, 130);
  all << a, b;
  InputStats stats(130);
  const MatrixF* const inputs[] = {&a, &b};
  stats.Add(inputs, 3);
  EXPECT_EQ(stats.tokens(), 80);
  const MatrixF wanted = testing::HessianOf(all);
  EXPECT_LT((stats.Hessian() - wanted).norm(), 1e-5f * wanted.norm());
  EXPECT_EQ(stats.Hessian(), MatrixF(stats.Hessian().transpose()));
  EXPECT_LT((stats.MeanAbs() - all.cwiseAbs().colwise().mean().transpose()).norm(), 1e-4f);
  EXPECT_EQ(stats.max_abs(), VectorF(all.cwiseAbs().colwise().maxCoeff().transpose()));
  EXPECT_EQ(stats.magnitudes().max(), all.cwiseAbs().maxCoeff());
}

TEST(InputStatsTest, IsTheSameOnAnyNumberOfThreads) {
  const MatrixF x = testing::CorrelatedInputs(40, 200, 3);
  const MatrixF* const inputs[] = {&x, &x, &x};
  InputStats one(200), four(200);
  one.Add(inputs, 1);
  four.Add(inputs, 4);
  EXPECT_EQ(one.Hessian(), four.Hessian());
}

TEST(InputStatsTest, NothingSeenIsZero) {
  const InputStats stats(8);
  EXPECT_TRUE(stats.Hessian().isZero());
  EXPECT_TRUE(stats.MeanAbs().isZero());
}

}  // namespace
}  // namespace nibble::quantize

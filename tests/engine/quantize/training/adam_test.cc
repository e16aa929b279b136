#include "engine/quantize/training/adam.h"

#include <gtest/gtest.h>

namespace nibble::quantize {
namespace {

MatrixF Values(float a, float b) {
  MatrixF m(1, 2);
  m << a, b;
  return m;
}

TEST(AdamTest, TheFirstStepIsTheRateWhateverTheGradientsSize) {
  Adam adam(1, 2);
  MatrixF values = Values(1, 1);
  adam.Step(1, 0.1f, Values(1000, -0.001f), values);
  EXPECT_NEAR(values(0, 0), 0.9f, 1e-4);
  EXPECT_NEAR(values(0, 1), 1.1f, 1e-4);
}

TEST(AdamTest, TwoStepsAsThePaperHasThem) {
  Adam adam(1, 2);
  MatrixF values = Values(0, 0);
  adam.Step(1, 1, Values(1, 0), values);
  adam.Step(2, 1, Values(-2, 0), values);
  // m = 0.9 * 0.1 - 0.1 * 2 = -0.11, corrected by 0.19; v = 0.999 * 0.001 + 0.001 * 4 = 0.004999,
  // corrected by 0.001999.
  EXPECT_NEAR(values(0, 0), -1 + 0.11 / 0.19 / std::sqrt(0.004999 / 0.001999), 1e-4);
  EXPECT_EQ(values(0, 1), 0);
}

TEST(AdamTest, FindsTheBottomOfABowl) {
  Adam adam(1, 2);
  MatrixF values = Values(3, -2);
  for (int step = 1; step <= 2000; ++step) {
    MatrixF gradient = 2 * (values - Values(1, 4));
    adam.Step(step, 0.02f, gradient, values);
  }
  EXPECT_NEAR(values(0, 0), 1, 1e-2);
  EXPECT_NEAR(values(0, 1), 4, 1e-2);
}

}  // namespace
}  // namespace nibble::quantize

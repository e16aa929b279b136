#include "engine/quantize/methods/learned_clipping.h"

#include <gtest/gtest.h>

#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/quantize/methods/correlated_inputs.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

class LearnedClippingTest : public ::testing::Test {
 protected:
  double Error(const QuantizedWeight& quantized) const {
    return OutputError(weight_, Dequantize(quantized), hessian_);
  }
  const MatrixF weight_ = testing::HeavyTailedWeights(48, 256, 1);
  const MatrixF hessian_ = testing::HessianOf(testing::CorrelatedInputs(800, 256, 2));
};

// Against the whole range, and against the range that is best for the weights alone.
TEST_F(LearnedClippingTest, LosesLessThanRoundingWithAnyOtherRange) {
  for (const char* scheme : {"int2-full-g64", "int2-asym-g64", "int3-full-g128", "int3-asym-g64",
                             "int4-full-g128", "int4-asym-g128", "nf4-b64"}) {
    const Scheme whole = *ParseScheme(scheme);
    Scheme searched = whole;
    searched.range = RangeChoice::kLeastError;
    const double rounding = Error(RoundToNearest(weight_, whole, 1));
    const double by_weights = Error(RoundToNearest(weight_, searched, 1));
    const double alone = Error(LearnClipping(weight_, hessian_, whole, {.sweeps = 0}));
    const double learned = Error(LearnClipping(weight_, hessian_, whole, {}));
    std::printf("%s: of rounding's error: least weight error %.3f, by itself %.3f, learned %.3f\n",
                scheme, by_weights / rounding, alone / rounding, learned / rounding);
    EXPECT_LT(learned, 0.85 * rounding) << scheme;
    EXPECT_LT(learned, by_weights) << scheme;
    EXPECT_LT(learned, alone) << scheme;
  }
}

TEST_F(LearnedClippingTest, MoreSweepsNeverLose) {
  const Scheme scheme = *ParseScheme("int3-asym-g64");
  double before = Error(RoundToNearest(weight_, scheme, 1));
  for (int sweeps : {1, 2, 4}) {
    const double now = Error(LearnClipping(weight_, hessian_, scheme, {.sweeps = sweeps}));
    EXPECT_LE(now, before * 1.0001);
    before = now;
  }
}

TEST_F(LearnedClippingTest, GptqTakesTheRanges) {
  const Scheme scheme = *ParseScheme("int2-full-g64");
  const QuantizedWeight tiles = LearnClipping(weight_, hessian_, scheme, {});
  const auto both = QuantizeGptq(weight_, hessian_, scheme, {.tiles = &tiles});
  const auto gptq = QuantizeGptq(weight_, hessian_, scheme, {});
  ASSERT_TRUE(both.ok() && gptq.ok());
  EXPECT_LT(Error(*both), Error(*gptq));
  EXPECT_LT(Error(*both), Error(tiles));
  EXPECT_EQ(both->params[5].scale, tiles.params[5].scale);
}

TEST_F(LearnedClippingTest, IsTheSameOnAnyNumberOfThreads) {
  const Scheme scheme = *ParseScheme("int3-asym-g64");
  EXPECT_EQ(LearnClipping(weight_, hessian_, scheme, {.threads = 1}).codes,
            LearnClipping(weight_, hessian_, scheme, {.threads = 4}).codes);
}

}  // namespace
}  // namespace nibble::quantize

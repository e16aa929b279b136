// Inputs computed again must be the inputs themselves: site by site gives what one pass gives.
#include "engine/quantize/calibration/layer_inputs.h"

#include <gtest/gtest.h>

#include "tests/engine/model/tiny_decoder.h"

namespace nibble::quantize {
namespace {

class LayerInputsTest : public ::testing::Test {
 protected:
  LayerInputs Make(int windows, int threads, const std::atomic<bool>* cancelled = nullptr) const {
    LayerInputs inputs(config_, kTokens, threads, cancelled);
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (int w = 0; w < windows; ++w) {
      MatrixF x(kTokens, config_.hidden_size);
      for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = normal(random);
      inputs.Add(std::move(x));
    }
    return inputs;
  }

  static constexpr int32_t kTokens = 16;
  const ModelConfig config_ = TinyConfig();
  const TinyWeights weights_{config_, 5};
  const LayerWeights first_ = *LoadLayer(weights_, config_, 0);
  const LayerWeights second_ = *LoadLayer(weights_, config_, 1);
};

TEST_F(LayerInputsTest, SiteBySiteSeesWhatOnePassSees) {
  LayerInputs steps = Make(7, 1), pass = Make(7, 1);
  for (const LayerWeights* layer : {&first_, &second_}) {
    const std::vector<InputStats> wanted = *pass.MeasureLayer(*layer);
    for (Site site : kSites) {
      const InputStats found = *steps.Measure(site, *layer);
      const InputStats& same = wanted[static_cast<int>(site)];
      EXPECT_EQ(found.tokens(), 7 * kTokens);
      EXPECT_EQ(found.Hessian(), same.Hessian());
      EXPECT_EQ(found.MeanAbs(), same.MeanAbs());
      EXPECT_EQ(found.max_abs(), same.max_abs());
    }
    ASSERT_TRUE(steps.Finish(*layer).ok());
  }
}

TEST_F(LayerInputsTest, IsTheSameOnAnyNumberOfThreads) {
  LayerInputs one = Make(11, 1), many = Make(11, 6);
  for (Site site : kSites) {
    EXPECT_EQ(one.Measure(site, first_)->Hessian(), many.Measure(site, first_)->Hessian());
  }
}

// What is measured behind a linear follows from the linear as it is then.
TEST_F(LayerInputsTest, LaterSitesSeeLinearsThatChanged) {
  LayerInputs inputs = Make(5, 1), changed = Make(5, 1);
  LayerWeights weights = first_;
  EXPECT_EQ(inputs.Measure(Site::kAttention, first_)->Hessian(),
            changed.Measure(Site::kAttention, weights)->Hessian());
  weights[Linear::kV] *= 2;
  const MatrixF before = inputs.Measure(Site::kOutput, first_)->Hessian();
  const MatrixF after = changed.Measure(Site::kOutput, weights)->Hessian();
  EXPECT_LT((after - 4 * before).norm(), 1e-4f * after.norm());
}

TEST_F(LayerInputsTest, StopsWhenCancelled) {
  const std::atomic<bool> cancelled{true};
  LayerInputs inputs = Make(2, 1, &cancelled);
  EXPECT_EQ(inputs.Measure(Site::kAttention, first_).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(inputs.MeasureLayer(first_).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(inputs.Finish(first_).code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace nibble::quantize

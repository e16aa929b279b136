// Inputs computed again must be the inputs themselves: site by site gives what one pass gives.
#include "engine/quantize/calibration/layer_inputs.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/engine/model/tiny_decoder.h"

namespace nibble::quantize {
namespace {

class LayerInputsTest : public ::testing::Test {
 protected:
  std::unique_ptr<LayerInputs> Make(int windows, int threads,
                                    const std::atomic<bool>* cancelled = nullptr,
                                    const std::string& scratch_folder = "",
                                    int64_t memory_bytes = kResidualMemoryBytes) const {
    auto inputs = std::make_unique<LayerInputs>(config_, kTokens, threads, cancelled,
                                                scratch_folder, memory_bytes);
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    for (int w = 0; w < windows; ++w) {
      MatrixF x(kTokens, config_.hidden_size);
      for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = normal(random);
      EXPECT_TRUE(inputs->Add(std::move(x)).ok());
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
  const auto steps = Make(7, 1), pass = Make(7, 1);
  for (const LayerWeights* layer : {&first_, &second_}) {
    const std::vector<InputStats> wanted = *pass->MeasureLayer(*layer);
    for (Site site : kSites) {
      const InputStats found = *steps->Measure(site, *layer);
      const InputStats& same = wanted[static_cast<int>(site)];
      EXPECT_EQ(found.tokens(), 7 * kTokens);
      EXPECT_EQ(found.Hessian(), same.Hessian());
      EXPECT_EQ(found.MeanAbs(), same.MeanAbs());
      EXPECT_EQ(found.max_abs(), same.max_abs());
    }
    ASSERT_TRUE(steps->Finish(*layer).ok());
  }
}

TEST_F(LayerInputsTest, IsTheSameOnAnyNumberOfThreads) {
  const auto one = Make(11, 1), many = Make(11, 6);
  for (Site site : kSites) {
    EXPECT_EQ(one->Measure(site, first_)->Hessian(), many->Measure(site, first_)->Hessian());
  }
}

// What is measured behind a linear follows from the linear as it is then.
TEST_F(LayerInputsTest, LaterSitesSeeLinearsThatChanged) {
  const auto inputs = Make(5, 1), changed = Make(5, 1);
  LayerWeights weights = first_;
  EXPECT_EQ(inputs->Measure(Site::kAttention, first_)->Hessian(),
            changed->Measure(Site::kAttention, weights)->Hessian());
  weights[Linear::kV] *= 2;
  const MatrixF before = inputs->Measure(Site::kOutput, first_)->Hessian();
  const MatrixF after = changed->Measure(Site::kOutput, weights)->Hessian();
  EXPECT_LT((after - 4 * before).norm(), 1e-4f * after.norm());
}

// What a resumed run does with the layers that are finished.
TEST_F(LayerInputsTest, PassingALayerLeavesWhatMeasuringItLeaves) {
  const auto measured = Make(6, 1), whole = Make(6, 1), passed = Make(6, 3);
  for (Site site : kSites) ASSERT_TRUE(measured->Measure(site, first_).ok());
  ASSERT_TRUE(measured->Finish(first_).ok());
  ASSERT_TRUE(whole->MeasureLayer(first_).ok());
  ASSERT_TRUE(passed->PassLayer(first_).ok());
  const MatrixF wanted = measured->Measure(Site::kDown, second_)->Hessian();
  EXPECT_EQ(whole->Measure(Site::kDown, second_)->Hessian(), wanted);
  EXPECT_EQ(passed->Measure(Site::kDown, second_)->Hessian(), wanted);
}

TEST_F(LayerInputsTest, AFileGivesWhatMemoryGives) {
  const auto memory = Make(9, 2), file = Make(9, 2, nullptr, ::testing::TempDir(), 1);
  EXPECT_FALSE(memory->in_file());
  EXPECT_TRUE(file->in_file());
  for (const LayerWeights* layer : {&first_, &second_}) {
    for (Site site : kSites) {
      EXPECT_EQ(memory->Measure(site, *layer)->Hessian(), file->Measure(site, *layer)->Hessian());
    }
    ASSERT_TRUE(memory->Finish(*layer).ok());
    ASSERT_TRUE(file->Finish(*layer).ok());
  }
}

TEST_F(LayerInputsTest, StopsWhenCancelled) {
  const std::atomic<bool> cancelled{true};
  const auto inputs = Make(2, 1, &cancelled);
  EXPECT_EQ(inputs->Measure(Site::kAttention, first_).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(inputs->MeasureLayer(first_).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(inputs->Finish(first_).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(inputs->PassLayer(first_).code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace nibble::quantize

// The calibration's forward against an independent one, in f64 and from the definition.
#include "engine/quantize/calibration/decoder_layer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/quantize/calibration/reference_runner.h"
#include "tests/engine/model/tiny_decoder.h"
#include "tests/engine/quantize/decoder_configs.h"

namespace nibble::quantize {
namespace {

std::unique_ptr<LinearOp> Dense(int32_t, Linear, MatrixF weight) {
  return MakeDenseOp(std::move(weight));
}

// Log probabilities after each of `ids`, in calls of the given sizes.
std::vector<std::vector<double>> Logprobs(LogitsRunner& runner, const std::vector<int32_t>& ids,
                                          int32_t chunk) {
  std::vector<std::vector<double>> all;
  const std::vector<int32_t> blocks(runner.limits().num_blocks);
  const SamplingParams sampling;
  for (int32_t first = 0; first < static_cast<int32_t>(ids.size()); first += chunk) {
    Batch batch;
    BatchRow row;
    row.tokens = ids;
    row.num_computed = first;
    row.num_scheduled = std::min(chunk, static_cast<int32_t>(ids.size()) - first);
    row.block_table = blocks;
    row.sampling = &sampling;
    batch.rows.push_back(row);
    batch.num_tokens = row.num_scheduled;
    EXPECT_TRUE(runner
                    .RunForLogits(batch,
                                  [&](int32_t, int32_t position, absl::Span<const float> logits) {
                                    EXPECT_EQ(position, static_cast<int32_t>(all.size()));
                                    double sum = 0;
                                    for (float logit : logits) sum += std::exp(double{logit});
                                    all.emplace_back();
                                    for (float logit : logits) {
                                      all.back().push_back(logit - std::log(sum));
                                    }
                                  })
                    .ok());
  }
  return all;
}

class DecoderLayerTest : public ::testing::TestWithParam<ModelConfig> {};

TEST_P(DecoderLayerTest, IsTheDecoderOfThePaper) {
  const ModelConfig config = GetParam();
  const TinyWeights weights(config, 7);
  DenseDecoder dense(config, weights);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 40; ++i) ids.push_back((i * 17 + 3) % config.vocab_size);
  const auto wanted = dense.Logprobs(ids);
  auto runner = MakeReferenceRunner(weights, config, 64, Dense);
  ASSERT_TRUE(runner.ok()) << runner.status();
  for (int32_t chunk : {40, 7}) {
    const auto got = Logprobs(**runner, ids, chunk);
    ASSERT_EQ(got.size(), wanted.size());
    double sum = 0;
    for (size_t p = 0; p < ids.size(); ++p) {
      for (int32_t i = 0; i < config.vocab_size; ++i) {
        // The other one keeps k and v in f16, as the cache does.
        ASSERT_NEAR(got[p][i], wanted[p][i], 0.1) << "position " << p << ", chunk " << chunk;
        sum += std::fabs(got[p][i] - wanted[p][i]);
      }
    }
    EXPECT_LT(sum / (ids.size() * config.vocab_size), 1e-2);
  }
}

// A long window's attention is computed for some queries at a time.
TEST_P(DecoderLayerTest, BlocksOfQueriesGiveTheSameAttention) {
  const ModelConfig config = GetParam();
  const TinyWeights source(config, 7);
  const LayerWeights weights = *LoadLayer(source, config, 1);
  const auto apply = [&](Linear linear, const MatrixF& x) -> MatrixF {
    return x * weights[linear].transpose();
  };
  constexpr int32_t kTokens = 43;
  const auto reach = [&](const DecoderLayer& layer) {
    WindowState state;
    state.x = MatrixF(kTokens, config.hidden_size);
    for (int64_t i = 0; i < state.x.size(); ++i) {
      state.x.data()[i] = std::sin(static_cast<float>(i * i));
    }
    for (Site site : {Site::kAttention, Site::kOutput}) {
      layer.Reach(site, {weights.attention_norm, weights.ffn_norm, weights.bias}, apply, state);
    }
    return state.input;
  };
  const MatrixF whole = reach(DecoderLayer(config, kTokens));
  for (const int64_t scores : {1, 16 * kTokens, 24 * kTokens}) {
    const MatrixF blocks = reach(DecoderLayer(config, kTokens, scores));
    EXPECT_LT((blocks - whole).cwiseAbs().maxCoeff(), 1e-5f * whole.cwiseAbs().maxCoeff())
        << scores;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DecoderLayerTest, ::testing::ValuesIn(testing::DecoderConfigs()));

TEST(ReferenceRunnerTest, RefusesWhatItDoesNotDo) {
  const ModelConfig config = TinyConfig();
  const TinyWeights weights(config, 1);
  auto runner = MakeReferenceRunner(weights, config, 64, Dense);
  ASSERT_TRUE(runner.ok());
  EXPECT_EQ((*runner)->Run({}).status().code(), absl::StatusCode::kUnimplemented);
  Batch batch;
  batch.rows.resize(2);
  EXPECT_EQ((*runner)->RunForLogits(batch, [](int32_t, int32_t, absl::Span<const float>) {}).code(),
            absl::StatusCode::kUnimplemented);
}

TEST(DecoderLayerTest, SitesAndLinearsFitTogether) {
  for (Site site : kSites) {
    for (Linear linear : LinearsOf(site)) EXPECT_EQ(SiteOf(linear), site);
  }
  const ModelConfig config = TinyConfig();
  EXPECT_EQ(ShapeOf(config, Linear::kK).rows, 32);
  EXPECT_EQ(ShapeOf(config, Linear::kDown).cols, 96);
  EXPECT_EQ(LinearName(3, Linear::kO), "blk.3.attn_output.weight");
  EXPECT_EQ(NormName(0, Site::kFeedForward), "blk.0.ffn_norm.weight");
}

}  // namespace
}  // namespace nibble::quantize

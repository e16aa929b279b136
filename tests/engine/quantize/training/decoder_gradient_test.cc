// Backpropagation against differences of the loss itself.
#include "engine/quantize/training/decoder_gradient.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/engine/model/tiny_decoder.h"
#include "tests/engine/quantize/decoder_configs.h"

namespace nibble::quantize {
namespace {

std::vector<int32_t> Ids(const ModelConfig& config, int32_t n) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < n; ++i) ids.push_back((i * 17 + 3) % config.vocab_size);
  return ids;
}

DecoderWeights Load(const ModelConfig& config, uint32_t seed) {
  const TinyWeights source(config, seed);
  auto weights = LoadDecoder(source, config);
  EXPECT_TRUE(weights.ok()) << weights.status();
  return *std::move(weights);
}

MatrixF Random(int64_t rows, int64_t cols, std::mt19937& random) {
  std::normal_distribution<float> normal;
  MatrixF m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random);
  return m;
}

class DecoderGradientTest : public ::testing::TestWithParam<ModelConfig> {};

TEST_P(DecoderGradientTest, LogitsAreTheDecodersOfThePaper) {
  const ModelConfig config = GetParam();
  const TinyWeights source(config, 3);
  const std::vector<int32_t> ids = Ids(config, 20);
  const auto wanted = DenseDecoder(config, source).Logprobs(ids);
  const MatrixF logits = DecoderGradient(config, 20).Logits(Load(config, 3), ids);
  ASSERT_EQ(logits.rows(), 20);
  double sum = 0;
  for (int64_t p = 0; p < logits.rows(); ++p) {
    const double log_sum = std::log(logits.row(p).cast<double>().array().exp().sum());
    for (int32_t i = 0; i < config.vocab_size; ++i) {
      sum += std::fabs(logits(p, i) - log_sum - wanted[p][i]);
    }
  }
  EXPECT_LT(sum / static_cast<double>(logits.size()), 1e-2);  // the other one keeps k and v in f16
}

TEST_P(DecoderGradientTest, IsWhatTheLossChangesBy) {
  const ModelConfig config = GetParam();
  const std::vector<int32_t> ids = Ids(config, 24);
  const DecoderGradient decoder(config, 24);
  const MatrixF teacher = decoder.Logits(Load(config, 1), ids);
  DecoderWeights student = Load(config, 2);
  LinearGradients gradients = ZeroGradients(config);
  EXPECT_GT(decoder.AddGradient(student, ids, teacher, gradients), 0);
  std::mt19937 random(5);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (int i = 0; i < kNumLinears; ++i) {
      MatrixF& weight = student.layers[layer].linear[i];
      const MatrixF before = weight;
      // Along the gradient and a little of everything, so that the slope is no difference of noise.
      const MatrixF& gradient = gradients[layer][i];
      const MatrixF direction = gradient / gradient.norm() +
                                0.1f * Random(weight.rows(), weight.cols(), random).normalized();
      const float step = 0.01f;
      const auto loss_at = [&](float by) {
        weight = before + by * direction;
        LinearGradients ignored = ZeroGradients(config);
        return decoder.AddGradient(student, ids, teacher, ignored);
      };
      const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
      weight = before;
      const double wanted = (gradient.array() * direction.array()).cast<double>().sum();
      EXPECT_NEAR(slope, wanted, 0.02 * std::fabs(wanted))
          << LinearName(layer, static_cast<Linear>(i));
    }
  }
}

TEST_P(DecoderGradientTest, IsZeroWhereStudentAndTeacherAgree) {
  const ModelConfig config = GetParam();
  const std::vector<int32_t> ids = Ids(config, 8);
  const DecoderGradient decoder(config, 8);
  const DecoderWeights weights = Load(config, 1);
  LinearGradients gradients = ZeroGradients(config);
  EXPECT_NEAR(decoder.AddGradient(weights, ids, decoder.Logits(weights, ids), gradients), 0, 1e-6);
  for (const MatrixF& gradient : gradients[0]) EXPECT_LT(gradient.norm(), 1e-4f);
}

INSTANTIATE_TEST_SUITE_P(Shapes, DecoderGradientTest,
                         ::testing::ValuesIn(testing::DecoderConfigs()));

TEST(DecoderGradientTest, AddsToWhatIsThere) {
  const ModelConfig config = TinyConfig();
  const std::vector<int32_t> ids = Ids(config, 8);
  const DecoderGradient decoder(config, 8);
  const MatrixF teacher = decoder.Logits(Load(config, 1), ids);
  const DecoderWeights student = Load(config, 2);
  LinearGradients once = ZeroGradients(config), twice = ZeroGradients(config);
  decoder.AddGradient(student, ids, teacher, once);
  for (int i = 0; i < 2; ++i) decoder.AddGradient(student, ids, teacher, twice);
  EXPECT_TRUE(twice[1][0].isApprox(2 * once[1][0]));
}

TEST(LoadDecoderTest, SaysWhatTheSourceLacks) {
  const ModelConfig config = TinyConfig();
  TinyWeights source(config, 1);
  source.Remove("output_norm.weight");
  EXPECT_EQ(LoadDecoder(source, config).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace nibble::quantize

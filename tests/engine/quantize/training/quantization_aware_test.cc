#include "engine/quantize/training/quantization_aware.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "engine/quantize/methods/round_to_nearest.h"
#include "engine/quantize/training/decoder_gradient.h"
#include "tests/engine/model/tiny_decoder.h"

namespace nibble::quantize {
namespace {

class Kept : public LayerSink {
 public:
  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight) override {
    EXPECT_NE(weight, nullptr);
    EXPECT_EQ(Dequantize(*weight), values);
    matrices[name] = values;
    return absl::OkStatus();
  }
  absl::Status Vector(const std::string&, const VectorF&) override { return absl::OkStatus(); }
  void InputRange(int32_t, Site, float) override {}

  std::map<std::string, MatrixF> matrices;
};

std::vector<std::vector<int32_t>> Windows(const ModelConfig& config, int n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int32_t>> windows(n, std::vector<int32_t>(24));
  for (auto& window : windows) {
    for (int32_t& id : window) id = static_cast<int32_t>(random() % config.vocab_size);
  }
  return windows;
}

Scheme Named(absl::string_view name) {
  auto scheme = ParseScheme(name);
  EXPECT_TRUE(scheme.ok()) << scheme.status();
  return *scheme;
}

// KL of the model with these matrices to the model itself, on text that training did not see.
double Divergence(const ModelConfig& config, const TinyWeights& source,
                  const std::map<std::string, MatrixF>& matrices) {
  auto weights = LoadDecoder(source, config);
  const DecoderGradient decoder(config, 24);
  DecoderWeights changed = *weights;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (int i = 0; i < kNumLinears; ++i) {
      changed.layers[layer].linear[i] = matrices.at(LinearName(layer, static_cast<Linear>(i)));
    }
  }
  double sum = 0;
  const auto windows = Windows(config, 8, 99);
  for (const auto& ids : windows) {
    LinearGradients ignored = ZeroGradients(config);
    sum += decoder.AddGradient(changed, ids, decoder.Logits(*weights, ids), ignored);
  }
  return sum / 8;
}

TEST(TrainQuantizedTest, RecoversMuchOfWhatRoundingLost) {
  const ModelConfig config = TinyConfig();
  const TinyWeights source(config, 11);
  const Scheme scheme = Named("int4-asym-g32");
  TrainingOptions options;
  options.steps = 0;
  Kept rounded, trained;
  const auto windows = Windows(config, 200, 1);
  ASSERT_TRUE(TrainQuantized(source, config, scheme, windows, options, rounded).ok());
  options.steps = 240;
  options.learning_rate = 5e-4f;
  std::vector<double> losses;
  options.progress = [&](int32_t done, int32_t steps, double loss) {
    EXPECT_EQ(steps, 240);
    losses.push_back(loss);
    EXPECT_EQ(static_cast<int32_t>(losses.size()), done);
  };
  const auto reports = TrainQuantized(source, config, scheme, windows, options, trained);
  ASSERT_TRUE(reports.ok()) << reports.status();
  EXPECT_EQ(reports->size(), static_cast<size_t>(config.num_layers * kNumLinears));
  EXPECT_GT(reports->front().bits, 3);
  const double before = Divergence(config, source, rounded.matrices);
  const double after = Divergence(config, source, trained.matrices);
  RecordProperty("before", std::to_string(before));
  RecordProperty("after", std::to_string(after));
  EXPECT_LT(after, 0.7 * before) << before;
  EXPECT_LT(losses.back(), losses.front());
}

TEST(TrainQuantizedTest, WithoutStepsItRoundsToNearest) {
  const ModelConfig config = TinyConfig();
  const TinyWeights source(config, 11);
  const Scheme scheme = Named("int4-asym-g32");
  TrainingOptions options;
  options.steps = 0;
  Kept kept;
  ASSERT_TRUE(TrainQuantized(source, config, scheme, Windows(config, 1, 1), options, kept).ok());
  const std::string name = LinearName(1, Linear::kDown);
  auto dense = LoadDense(source, name, config.hidden_size, config.ffn_size);
  ASSERT_TRUE(dense.ok());
  EXPECT_EQ(kept.matrices.at(name), Dequantize(RoundToNearest(*dense, scheme, 1)));
}

TEST(TrainQuantizedTest, IsTheSameOnAnyNumberOfThreads) {
  const ModelConfig config = TinyConfig();
  const TinyWeights source(config, 11);
  TrainingOptions options;
  options.steps = 3;
  options.batch = 3;
  Kept one, many;
  const auto windows = Windows(config, 5, 1);
  const Scheme scheme = Named("int4-sym-g32");
  ASSERT_TRUE(TrainQuantized(source, config, scheme, windows, options, one).ok());
  options.threads = 5;
  ASSERT_TRUE(TrainQuantized(source, config, scheme, windows, options, many).ok());
  EXPECT_EQ(one.matrices, many.matrices);
}

TEST(TrainQuantizedTest, RefusesWhatItCannotTrainOn) {
  const ModelConfig config = TinyConfig();
  const TinyWeights source(config, 11);
  Kept kept;
  const auto code = [&](absl::string_view scheme, std::vector<std::vector<int32_t>> windows,
                        absl::string_view part, float rate = 1e-3f) {
    TrainingOptions options;
    options.steps = 3;
    options.learning_rate = rate;
    const absl::Status status =
        TrainQuantized(source, config, Named(scheme), windows, options, kept).status();
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
    return status.code();
  };
  using absl::StatusCode;
  const auto good = Windows(config, 2, 1);
  EXPECT_EQ(code("int4-sym-g32", {}, "calibration text"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code("int4-sym-g32", {{}}, "empty window"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code("int4-sym-g32", {{config.vocab_size}}, "vocabulary"),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(code("int4-sym-g96", good, "blk.0.attn_q.weight"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code("int4-sym-g32", good, "step", std::numeric_limits<float>::infinity()),
            StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace nibble::quantize

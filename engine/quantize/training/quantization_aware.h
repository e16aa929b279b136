// Quantization-aware training (QAT) of a model's linears. Every step rounds them to the scheme's
// grid, runs the rounded model, and lets the gradient pass the rounding as if it were not there:
// the straight-through estimator (arXiv 1308.3432). What the weights learn is the unquantized
// model's distributions (KL, as LLM-QAT, arXiv 2305.17888), so any text will do and the model
// itself is the teacher. Adam (arXiv 1412.6980), its rate falling to 0 linearly.
//
// For small models: about 6 + min(threads, batch) copies of the linears in f32 are in memory, all
// layers at once, and a step costs about four forwards of batch * window tokens. GPTQ
// (layerwise.h) needs a layer at a time and one pass.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/quantize/calibration/layerwise.h"
#include "engine/quantize/methods/scheme.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

inline constexpr int32_t kMaxTrainingSteps = 1'000'000;

struct TrainingOptions {
  int32_t steps = 200;
  int32_t batch = 4;  // windows a step
  float learning_rate = 1e-4f;
  uint64_t seed = 1;  // of the order of windows
  int threads = 1;    // the result is the same for any number
  // After every step; loss: nats a token, before it. May be empty.
  std::function<void(int32_t done, int32_t steps, double loss)> progress;
};

// The linears as rounded after the last step go to `sink`. INVALID_ARGUMENT for no windows, ids
// outside the vocabulary, or a shape that the scheme cannot hold (names the tensor);
// FAILED_PRECONDITION when loss or weights are no longer finite (names the step and the rate);
// otherwise what the source or the sink says.
absl::StatusOr<std::vector<LinearReport>> TrainQuantized(
    const WeightSource& source, const ModelConfig& config, const Scheme& scheme,
    absl::Span<const std::vector<int32_t>> windows, const TrainingOptions& options,
    LayerSink& sink);

}  // namespace nibble::quantize

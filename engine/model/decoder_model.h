// A Llama-family decoder (arXiv 2302.13971): its weights on a device, and the ops of one step in
// the paper's order. Qwen2 (arXiv 2407.10671) is the same with biases on q, k and v and another
// rope layout.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/kv_cache.h"
#include "engine/model/matrix_loader.h"
#include "engine/model/model_config.h"
#include "engine/model/step_input.h"
#include "engine/model/workspace.h"
#include "engine/weights/weight_source.h"
#include "kernels/backend.h"

namespace nibble {

// INVALID_ARGUMENT names the first number of the config that does not fit the others.
absl::Status CheckConfig(const ModelConfig& config, int32_t max_context);

struct LoadOptions {
  std::function<void(int64_t done, int64_t total)> progress;  // bytes of the file; may be empty
  PackedCache packed_cache;
};

class DecoderModel {
 public:
  // Loads by GGUF tensor names (matrix_loader.h: in parallel, or from a cache), and prepares rope
  // angles for `max_context` positions. INVALID_ARGUMENT when the config's numbers do not fit
  // together; otherwise what the source or the backend says.
  static absl::StatusOr<DecoderModel> Load(Backend& backend, const ModelConfig& config,
                                           const WeightSource& weights, int32_t max_context,
                                           const LoadOptions& options);

  // Runs the layers over the step's tokens: writes their k and v, leaves the last residual in
  // space.hidden. `drawn` (on the device) is what ids below 0 of the input stand for. `layers_run`
  // is raised for each layer (Backend::CountLayer).
  void Forward(Backend& backend, const StepInput& input, const int32_t* drawn, const KvCache& cache,
               const Workspace& space, std::atomic<int64_t>& layers_run) const;

  // Logits f32 [n, vocab_size] (in space.logits) of the step's token rows `rows` (on the device,
  // [n]).
  Tensor Logits(Backend& backend, const StepInput& input, const int32_t* rows, int32_t n,
                const Workspace& space) const;

  const ModelConfig& config() const { return config_; }
  int64_t size_bytes() const { return size_bytes_; }  // weights on the device
  const MatrixReport& matrices() const { return matrices_; }
  int64_t layer_bytes() const;  // of those: all layers, and the last norm
  int64_t head_bytes() const;   // the head, or the embedding that takes its place

 private:
  using Weight = std::unique_ptr<PackedMatrix>;
  struct Layer {
    DeviceBuffer attention_norm, qkv_bias, ffn_norm;  // f32
    Weight q, k, v, o, gate, up, down;
  };
  class Loader;

  std::vector<MatrixRequest> Matrices();
  void Attend(Backend& backend, const Layer& layer, const KvLayer& cache, const StepInput& input,
              const Workspace& space) const;
  void FeedForward(Backend& backend, const Layer& layer, int32_t num_tokens,
                   const Workspace& space) const;

  ModelConfig config_;
  MatrixReport matrices_;
  int64_t size_bytes_ = 0;
  Weight embedding_;
  std::vector<Layer> layers_;
  DeviceBuffer final_norm_;
  Weight head_;           // null: the embedding is the head
  DeviceBuffer cos_sin_;  // [max_context, rotary_dim]
};

}  // namespace nibble

// The real ModelRunner: a decoder model on a backend, with its paged KV cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/logits_runner.h"
#include "engine/model/matrix_loader.h"
#include "engine/model/model_config.h"
#include "engine/weights/weight_source.h"
#include "kernels/backend.h"

namespace nibble {

struct RunnerOptions {
  int32_t max_context = 0;  // 0: the model's own
  int64_t kv_cache_bytes =
      256 << 20;  // RESOURCE_EXHAUSTED when it cannot hold one sequence of max_context tokens
  DType kv_cache_type = DType::kF16;  // or kBf16, kI8, kF8E4M3
  int32_t block_size = 32;            // tokens; a power of two, 8 to 256
  int32_t max_batch_tokens = 512;
  int32_t max_sequences = 64;
  PackedCache packed_cache;
};

struct RunnerBytes {
  int64_t weights = 0;
  int64_t layers = 0;  // of the weights: what every step reads
  int64_t head = 0;    // of the weights: what a step that draws or scores tokens reads as well
  int64_t kv_cache = 0;
  int64_t workspace = 0;
};

class DeviceRunner : public LogitsRunner {
 public:
  // Loads every weight (matrix_loader.h: memory never holds two copies of the model), allocates
  // cache and workspace. `progress` (may be null) hears bytes done and total, on this thread.
  // `backend` must outlive the runner.
  static absl::StatusOr<std::unique_ptr<DeviceRunner>> Create(
      Backend& backend, const ModelConfig& config, const WeightSource& weights,
      const RunnerOptions& options, std::function<void(int64_t, int64_t)> progress);
  virtual RunnerBytes bytes() const = 0;
  virtual const MatrixReport& matrices() const = 0;  // how they were loaded
};

}  // namespace nibble

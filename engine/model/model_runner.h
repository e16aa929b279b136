// Runs one batch on a device. The engine sees a model only through this, so a scripted fake can
// take its place.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/batch.h"

namespace nibble {

struct RunnerLimits {
  int32_t vocab_size = 0;
  int32_t max_context = 0;       // tokens of one sequence, prompt and completion together
  int32_t block_size = 0;        // tokens
  int32_t num_blocks = 0;        // of the KV cache
  int32_t max_batch_tokens = 0;  // of one step
  int32_t max_sequences = 0;     // of one step
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual RunnerLimits limits() const = 0;

  // Runs the step and waits for it. The cache rows of the scheduled tokens are written; results are
  // in batch order. An error is the device's (INTERNAL): the batch is lost and the engine stops.
  // REQUIRES the batch within limits(), ids in [0, vocab_size), block ids in [0, num_blocks).
  virtual absl::StatusOr<StepResult> Run(const Batch& batch) = 0;

  // Layers handed to the device since the start; moves within a step, so that a long one is not
  // taken for one that hangs. Any thread. Stays 0 where a runner does not count.
  virtual int64_t layers_run() const { return 0; }
};

}  // namespace nibble

// A ModelRunner whose logits an evaluation or a test may look at.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/batch.h"
#include "engine/model/model_runner.h"

namespace nibble {

class LogitsRunner : public ModelRunner {
 public:
  // `row` counts BatchRows; `logits` [vocab_size] f32 are valid during the call only.
  using LogitsVisitor =
      absl::FunctionRef<void(int32_t row, int32_t position, absl::Span<const float> logits)>;

  // Runs the step as Run does, k and v written to the cache, but draws and scores nothing: instead
  // `visit` sees the logits of every scheduled position from the row's `prompt_scored` on, in batch
  // order. Of a BatchRow it reads tokens, num_computed, num_scheduled, block_table and
  // prompt_scored. Logits are handed over as they are, NaN and infinity too, where Run would report
  // the fault of "sample".
  // REQUIRES what Run requires. Cost: the head for every position visited, and a copy to the host.
  virtual absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) = 0;
};

}  // namespace nibble

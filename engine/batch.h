// One step of the engine: what the scheduler asks the model to run, and what comes back. The only words that
// scheduling/ and model/ share.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "engine/request.h"

namespace nibble {

// One sequence's share of a step: run tokens[num_computed .. num_computed + num_scheduled - 1].
// Spans point into the Sequence and are valid until Scheduler::Commit of this step.
struct BatchRow {
  uint64_t sequence_id = 0;
  absl::Span<const int32_t> tokens;       // the prompt, then what was generated
  int32_t prompt_length = 0;
  int32_t num_computed = 0;               // tokens whose k and v are in the cache
  int32_t num_scheduled = 0;              // >= 1
  absl::Span<const int32_t> block_table;  // covers num_computed + num_scheduled positions
  const SamplingParams* sampling = nullptr;
  absl::Span<const int32_t> forbidden;    // ids that may not be drawn now (before min_tokens)
  int32_t logprobs = -1;
  int32_t prompt_logprobs = -1;           // score tokens[p + 1] at each scheduled p with p + 1 < prompt_length
                                          // (and p + 1 > prompt_scored)
  int32_t prompt_scored = 0;              // prompt positions already scored (recomputation does not score twice)
  bool sample = false;                    // the last scheduled token is the last known: draw the next one
};

struct Batch {
  std::vector<BatchRow> rows;
  int32_t num_tokens = 0;  // sum of num_scheduled
};

struct RowResult {
  std::optional<Logprob> sampled;        // set exactly when BatchRow::sample; logprob and top as asked for
  std::vector<Logprob> prompt_logprobs;  // for positions prompt_scored + 1 .., in order
};

struct StepResult {
  std::vector<RowResult> rows;  // one a batch row
};

}  // namespace nibble

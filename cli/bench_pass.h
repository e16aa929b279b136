// One pass of `nibble bench`: a batch of equal sequences, prefilled and then decoded together.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/batch.h"
#include "engine/model/model_runner.h"

namespace nibble {

class BenchPass {
 public:
  // Block tables are cut from the front of the cache, a sequence after the other. Prompts are ids
  // drawn from a fixed seed, different for each sequence. REQUIRES Fits.
  BenchPass(ModelRunner& runner, int32_t batch, int32_t prompt_tokens, int32_t generate_tokens);

  // OK, or what is too small in `limits` for such a pass.
  static absl::Status Fits(const RunnerLimits& limits, int32_t batch, int32_t prompt_tokens,
                           int32_t generate_tokens);

  // Prompts in steps of at most max_batch_tokens, as the scheduler would; draws the first token of
  // each sequence.
  absl::StatusOr<Duration> Prefill(const Clock& clock);
  // `generate_tokens` steps of one token a sequence. REQUIRES Prefill before.
  absl::StatusOr<Duration> Decode(const Clock& clock);

 private:
  struct Sequence {
    std::vector<int32_t> tokens;
    std::vector<int32_t> blocks;
    int32_t computed = 0;
  };
  // Runs the next `num_tokens[i]` tokens of sequence i, for those above 0, and takes up what was
  // drawn.
  absl::Status Step(const std::vector<int32_t>& num_tokens);

  ModelRunner& runner_;
  int32_t prompt_tokens_;
  int32_t generate_tokens_;
  SamplingParams greedy_;
  std::vector<Sequence> sequences_;
};

}  // namespace nibble

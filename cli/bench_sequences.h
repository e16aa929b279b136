// The sequences that `nibble bench` runs: equal prompts, prefilled together, and decoded together
// at any depth of their context.
//
// A prompt's place in the cache keeps what was prefilled there, so a depth is paid for once,
// however often it is decoded at. Decoded tokens go to blocks of their own, the tail.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/batch.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct SequencesShape {
  int32_t num_sequences = 0;
  int32_t prompt_tokens = 0;  // of the longest prompt, and of the deepest context
  int32_t generate_tokens = 0;

  int32_t blocks_per_sequence(int32_t block_size) const;  // of the cache
  int32_t max_context() const { return prompt_tokens + generate_tokens; }
};

// How `batch` prompts of `tokens` each are prefilled in steps of at most `max_batch_tokens`, as the
// scheduler would: for each step, the tokens of each sequence.
std::vector<std::vector<int32_t>> PrefillSteps(int32_t batch, int32_t tokens,
                                               int32_t max_batch_tokens);

class BenchSequences {
 public:
  // Prompts are ids drawn from a fixed seed, different for each sequence. `on_step` (may be empty)
  // hears the tokens of every step that was run. REQUIRES Fits; `runner` outlives this.
  BenchSequences(ModelRunner& runner, const SequencesShape& shape,
                 std::function<void(int32_t tokens)> on_step);

  // OK, or that they are longer than `max_context`.
  static absl::Status FitsContext(int32_t max_context, const SequencesShape& shape);
  // OK, or what is too small in `limits` for such sequences.
  static absl::Status Fits(const RunnerLimits& limits, const SequencesShape& shape);

  // Prefills the first `tokens` of the first `batch` prompts from nothing and draws a token for
  // each. Returns how long it took.
  absl::StatusOr<Duration> Prefill(int32_t batch, int32_t tokens, const Clock& clock);

  // Makes the caches of the first `batch` sequences hold `context` tokens, untimed, then decodes
  // `generate` tokens for all of them together. Returns how long the decoding took.
  absl::StatusOr<Duration> Decode(int32_t batch, int32_t context, int32_t generate,
                                  const Clock& clock);

 private:
  struct Prompt {
    std::vector<int32_t> tokens;  // one more than the longest context: the first to be decoded
    std::vector<int32_t> blocks;
    std::vector<int32_t> tail;
    int32_t filled = 0;
  };
  // A sequence as one pass sees it.
  struct Row {
    std::vector<int32_t> tokens;
    std::vector<int32_t> blocks;
    int32_t computed = 0;
  };
  Row MakeRow(const Prompt& prompt, int32_t num_tokens) const;
  absl::Status Fill(int32_t batch, int32_t context);
  // Runs the next `num_tokens[i]` tokens of row i, for those above 0, and takes up what was drawn
  // for a row whose tokens all have run.
  absl::Status Step(std::vector<Row>& rows, const std::vector<int32_t>& num_tokens);

  ModelRunner& runner_;
  std::function<void(int32_t)> on_step_;
  SamplingParams greedy_;
  std::vector<Prompt> prompts_;
};

}  // namespace nibble

// A ModelRunner without a model. The next token is a hash of everything the block table says came
// before, so any token or block that was lost, doubled, reordered or taken from another sequence
// changes what comes out; and on every step it proves that the block table really holds the
// sequence's own history.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct ScriptedOptions {
  RunnerLimits limits{
      /*vocab_size=*/260, /*max_context=*/128,     /*block_size=*/4,
      /*num_blocks=*/64,  /*max_batch_tokens=*/64, /*max_sequences=*/16};
  // Tokens are drawn from [first_id, first_id + num_ids): the defaults give lower-case letters of
  // FakeTokenizer.
  int32_t first_id = 'a';
  int32_t num_ids = 26;
  // About one token in `eos_every` is `eos_id` instead; 0: never.
  int32_t eos_every = 0;
  int32_t eos_id = 257;
};

class ScriptedRunner final : public ModelRunner {
 public:
  explicit ScriptedRunner(const ScriptedOptions& options = {});

  RunnerLimits limits() const override { return options_.limits; }
  int64_t layers_run() const override { return layers_run_; }
  // INTERNAL after FailAtStep, or with the broken promise when the batch contradicts
  // model_runner.h, batch.h or the simulated cache.
  absl::StatusOr<StepResult> Run(const Batch& batch) override;

  // The token that follows `tokens` for `sampling` when nothing is forbidden: what a solo run would
  // say.
  int32_t NextToken(absl::Span<const int32_t> tokens, const SamplingParams& sampling,
                    absl::Span<const int32_t> forbidden) const;

  // The logprob that is reported for `id` after `tokens`, of the prompt or sampled.
  float LogprobOf(absl::Span<const int32_t> tokens, int32_t id) const;

  // Chooses tokens by hand; nullopt falls back to the hash. Set before the first step.
  using Script = std::function<std::optional<int32_t>(const BatchRow& row)>;
  void set_script(Script script) { script_ = std::move(script); }
  // Called at the start of every step: advance a FakeClock, block on a gate, look at the batch.
  void set_before_step(std::function<void(const Batch&)> hook) { before_step_ = std::move(hook); }
  // The n-th step from now (1: the next) returns INTERNAL.
  void FailAtStep(int64_t n) { fail_at_ = steps_ + n; }
  // The n-th step from now gives a token outside the vocabulary, as a broken kernel would.
  void GarbageAtStep(int64_t n) { garbage_at_ = steps_ + n; }

  // As a model of many layers that is in the middle of a step; a hook before a step may call it.
  void FinishLayer() { ++layers_run_; }

  int64_t steps() const { return steps_; }
  int64_t tokens_run() const { return tokens_run_; }

 private:
  absl::Status CheckBatch(const Batch& batch) const;
  absl::Status CheckRow(const BatchRow& row) const;
  absl::Status Replay(const BatchRow& row);
  RowResult Score(const BatchRow& row) const;

  ScriptedOptions options_;
  Script script_;
  std::function<void(const Batch&)> before_step_;
  std::vector<uint64_t>
      cache_;  // [num_blocks * block_size] hash of the history up to and with that slot's token
  std::atomic<int64_t> layers_run_{0};
  int64_t steps_ = 0;
  int64_t tokens_run_ = 0;
  int64_t fail_at_ = -1;
  int64_t garbage_at_ = -1;
};

}  // namespace nibble

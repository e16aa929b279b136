#include "cli/bench_pass.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {
namespace {

constexpr uint32_t kPromptSeed = 20260101;  // any fixed number: every run sees the same prompts

int32_t BlocksFor(int32_t tokens, int32_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

}  // namespace

BenchPass::BenchPass(ModelRunner& runner, int32_t batch, int32_t prompt_tokens,
                     int32_t generate_tokens)
    : runner_(runner), prompt_tokens_(prompt_tokens), generate_tokens_(generate_tokens) {
  greedy_.temperature = 0;
  const RunnerLimits limits = runner.limits();
  const int32_t blocks = BlocksFor(prompt_tokens + generate_tokens, limits.block_size);
  std::mt19937 random(kPromptSeed);
  int32_t next_block = 0;
  for (int32_t i = 0; i < batch; ++i) {
    Sequence sequence;
    sequence.tokens.reserve(prompt_tokens + generate_tokens + 1);
    for (int32_t p = 0; p < prompt_tokens; ++p) {
      sequence.tokens.push_back(static_cast<int32_t>(random() % limits.vocab_size));
    }
    for (int32_t b = 0; b < blocks; ++b) sequence.blocks.push_back(next_block++);
    sequences_.push_back(std::move(sequence));
  }
}

absl::Status BenchPass::Fits(const RunnerLimits& limits, int32_t batch, int32_t prompt_tokens,
                             int32_t generate_tokens) {
  const int32_t tokens = prompt_tokens + generate_tokens;
  if (tokens > limits.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("--prompt-tokens and --generate-tokens: found ",
                                                   tokens, " together, needed at most ",
                                                   limits.max_context, ", the model's context"));
  }
  if (batch > limits.max_sequences || batch > limits.max_batch_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--batch: found ", batch, ", needed at most ",
                     std::min(limits.max_sequences, limits.max_batch_tokens)));
  }
  const int64_t blocks = int64_t{batch} * BlocksFor(tokens, limits.block_size);
  if (blocks > limits.num_blocks) {
    return absl::InvalidArgumentError(absl::StrCat("--batch ", batch, ": found a KV cache of ",
                                                   limits.num_blocks, " blocks, needed ", blocks));
  }
  return absl::OkStatus();
}

absl::Status BenchPass::Step(const std::vector<int32_t>& num_tokens) {
  Batch batch;
  std::vector<Sequence*> scheduled;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (num_tokens[i] == 0) continue;
    Sequence& sequence = sequences_[i];
    BatchRow row;
    row.sequence_id = i;
    row.tokens = sequence.tokens;
    row.prompt_length = prompt_tokens_;
    row.num_computed = sequence.computed;
    row.num_scheduled = num_tokens[i];
    row.block_table = sequence.blocks;
    row.sampling = &greedy_;
    row.sample = sequence.computed + num_tokens[i] == static_cast<int32_t>(sequence.tokens.size());
    batch.rows.push_back(row);
    batch.num_tokens += num_tokens[i];
    scheduled.push_back(&sequence);
  }
  NIBBLE_ASSIGN_OR_RETURN(const StepResult result, runner_.Run(batch));
  for (size_t r = 0; r < scheduled.size(); ++r) {
    scheduled[r]->computed += batch.rows[r].num_scheduled;
    if (!batch.rows[r].sample) continue;
    NIBBLE_CHECK(result.rows[r].sampled.has_value());
    scheduled[r]->tokens.push_back(result.rows[r].sampled->id);
  }
  return absl::OkStatus();
}

absl::StatusOr<Duration> BenchPass::Prefill(const Clock& clock) {
  const int32_t budget_of_step = runner_.limits().max_batch_tokens;
  const Instant start = clock.Now();
  while (sequences_.back().computed < prompt_tokens_) {
    int32_t budget = budget_of_step;
    std::vector<int32_t> num_tokens;
    for (const Sequence& sequence : sequences_) {
      const int32_t left = std::max(prompt_tokens_ - sequence.computed, 0);
      num_tokens.push_back(std::min(left, budget));
      budget -= num_tokens.back();
    }
    NIBBLE_RETURN_IF_ERROR(Step(num_tokens));
  }
  return clock.Now() - start;
}

absl::StatusOr<Duration> BenchPass::Decode(const Clock& clock) {
  const std::vector<int32_t> one_each(sequences_.size(), 1);
  const Instant start = clock.Now();
  for (int32_t i = 0; i < generate_tokens_; ++i) NIBBLE_RETURN_IF_ERROR(Step(one_each));
  return clock.Now() - start;
}

}  // namespace nibble

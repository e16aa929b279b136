#include "cli/bench_sequences.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {
namespace {

constexpr uint32_t kPromptSeed = 20260101;  // any fixed number: every run sees the same prompts

int32_t BlocksFor(int32_t tokens, int32_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// A context may end within a block, whose beginning then lies in the tail too.
int32_t TailBlocks(int32_t generate_tokens, int32_t block_size) {
  return generate_tokens == 0 ? 0 : BlocksFor(block_size - 1 + generate_tokens, block_size);
}

}  // namespace

int32_t SequencesShape::blocks_per_sequence(int32_t block_size) const {
  return BlocksFor(prompt_tokens, block_size) + TailBlocks(generate_tokens, block_size);
}

std::vector<std::vector<int32_t>> PrefillSteps(int32_t batch, int32_t tokens,
                                               int32_t max_batch_tokens) {
  std::vector<std::vector<int32_t>> steps;
  std::vector<int32_t> left(batch, tokens);
  while (left.back() > 0) {
    int32_t budget = max_batch_tokens;
    std::vector<int32_t> step;
    for (int32_t& of_sequence : left) {
      step.push_back(std::min(of_sequence, budget));
      of_sequence -= step.back();
      budget -= step.back();
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

BenchSequences::BenchSequences(ModelRunner& runner, const SequencesShape& shape,
                               std::function<void(int32_t)> on_step)
    : runner_(runner), on_step_(std::move(on_step)) {
  greedy_.temperature = 0;
  const RunnerLimits limits = runner.limits();
  std::mt19937 random(kPromptSeed);
  int32_t next_block = 0;
  for (int32_t i = 0; i < shape.num_sequences; ++i) {
    Prompt prompt;
    for (int32_t p = 0; p < shape.prompt_tokens + 1; ++p) {
      prompt.tokens.push_back(static_cast<int32_t>(random() % limits.vocab_size));
    }
    for (int32_t b = 0; b < BlocksFor(shape.prompt_tokens, limits.block_size); ++b) {
      prompt.blocks.push_back(next_block++);
    }
    for (int32_t b = 0; b < TailBlocks(shape.generate_tokens, limits.block_size); ++b) {
      prompt.tail.push_back(next_block++);
    }
    prompts_.push_back(std::move(prompt));
  }
}

absl::Status BenchSequences::FitsContext(int32_t max_context, const SequencesShape& shape) {
  if (shape.max_context() <= max_context) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--prompt-tokens or --context, and --generate-tokens: found ", shape.max_context(),
      " tokens together, needed at most ", max_context, ", the model's context"));
}

absl::Status BenchSequences::Fits(const RunnerLimits& limits, const SequencesShape& shape) {
  NIBBLE_RETURN_IF_ERROR(FitsContext(limits.max_context, shape));
  const int32_t most = std::min(limits.max_sequences, limits.max_batch_tokens);
  if (shape.num_sequences > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("--batch: found ", shape.num_sequences, ", needed at most ", most));
  }
  const int64_t blocks =
      int64_t{shape.num_sequences} * shape.blocks_per_sequence(limits.block_size);
  if (blocks > limits.num_blocks) {
    return absl::InvalidArgumentError(absl::StrCat("--batch ", shape.num_sequences,
                                                   ": found a KV cache of ", limits.num_blocks,
                                                   " blocks, needed ", blocks));
  }
  return absl::OkStatus();
}

BenchSequences::Row BenchSequences::MakeRow(const Prompt& prompt, int32_t num_tokens) const {
  Row row;
  row.tokens.assign(prompt.tokens.begin(), prompt.tokens.begin() + num_tokens);
  row.blocks = prompt.blocks;
  return row;
}

absl::Status BenchSequences::Step(std::vector<Row>& rows, const std::vector<int32_t>& num_tokens) {
  Batch batch;
  std::vector<Row*> scheduled;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (num_tokens[i] == 0) continue;
    BatchRow row;
    row.sequence_id = i;
    row.tokens = rows[i].tokens;
    row.prompt_length = static_cast<int32_t>(rows[i].tokens.size());
    row.num_computed = rows[i].computed;
    row.num_scheduled = num_tokens[i];
    row.block_table = rows[i].blocks;
    row.sampling = &greedy_;
    row.sample = row.num_computed + row.num_scheduled == row.prompt_length;
    batch.rows.push_back(row);
    batch.num_tokens += num_tokens[i];
    scheduled.push_back(&rows[i]);
  }
  NIBBLE_ASSIGN_OR_RETURN(const StepResult result, runner_.Run(batch));
  for (size_t r = 0; r < scheduled.size(); ++r) {
    scheduled[r]->computed += batch.rows[r].num_scheduled;
    if (!batch.rows[r].sample) continue;
    NIBBLE_CHECK(result.rows[r].sampled.has_value());
    scheduled[r]->tokens.push_back(result.rows[r].sampled->id);
  }
  if (on_step_) on_step_(batch.num_tokens);
  return absl::OkStatus();
}

absl::StatusOr<Duration> BenchSequences::Prefill(int32_t batch, int32_t tokens,
                                                 const Clock& clock) {
  std::vector<Row> rows;
  for (int32_t i = 0; i < batch; ++i) rows.push_back(MakeRow(prompts_[i], tokens));
  const auto steps = PrefillSteps(batch, tokens, runner_.limits().max_batch_tokens);
  const Instant start = clock.Now();
  for (const std::vector<int32_t>& step : steps) NIBBLE_RETURN_IF_ERROR(Step(rows, step));
  const Duration took = clock.Now() - start;
  for (int32_t i = 0; i < batch; ++i) prompts_[i].filled = std::max(prompts_[i].filled, tokens);
  return took;
}

// One sequence after the other: chunks as large as can be.
absl::Status BenchSequences::Fill(int32_t batch, int32_t context) {
  const int32_t chunk = runner_.limits().max_batch_tokens;
  for (int32_t i = 0; i < batch; ++i) {
    Prompt& prompt = prompts_[i];
    std::vector<Row> rows = {MakeRow(prompt, context + 1)};  // one more: nothing is drawn
    rows[0].computed = prompt.filled;
    while (rows[0].computed < context) {
      NIBBLE_RETURN_IF_ERROR(Step(rows, {std::min(chunk, context - rows[0].computed)}));
    }
    prompt.filled = std::max(prompt.filled, context);
  }
  return absl::OkStatus();
}

absl::StatusOr<Duration> BenchSequences::Decode(int32_t batch, int32_t context, int32_t generate,
                                                const Clock& clock) {
  NIBBLE_RETURN_IF_ERROR(Fill(batch, context));
  const RunnerLimits limits = runner_.limits();
  const int32_t whole = context / limits.block_size;
  std::vector<Row> rows;
  for (int32_t i = 0; i < batch; ++i) {
    Row row = MakeRow(prompts_[i], context + 1);
    row.blocks.resize(whole);
    row.blocks.insert(row.blocks.end(), prompts_[i].tail.begin(), prompts_[i].tail.end());
    row.blocks.resize(BlocksFor(context + generate, limits.block_size));
    row.computed = whole * limits.block_size;
    rows.push_back(std::move(row));
  }
  // What the context has of a block that is not full, again, in the tail.
  const int32_t rest = context - whole * limits.block_size;
  if (rest > 0) {
    for (const std::vector<int32_t>& step : PrefillSteps(batch, rest, limits.max_batch_tokens)) {
      NIBBLE_RETURN_IF_ERROR(Step(rows, step));
    }
  }
  const std::vector<int32_t> one_each(batch, 1);
  const Instant start = clock.Now();
  for (int32_t i = 0; i < generate; ++i) NIBBLE_RETURN_IF_ERROR(Step(rows, one_each));
  return clock.Now() - start;
}

}  // namespace nibble

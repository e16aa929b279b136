#include "tests/engine/fakes/scripted_runner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

constexpr uint64_t kEmptyHistory = 0x9e3779b97f4a7c15;

uint64_t Mix(uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t Extend(uint64_t history, int32_t token) {
  return Mix(history * 31 + static_cast<uint64_t>(token) + 1);
}

bool Contains(absl::Span<const int32_t> ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// A pretended probability: any function of history and token will do, as long as it is only that.
Logprob Pretend(uint64_t history, int32_t token, int32_t num_top) {
  Logprob out{token, -static_cast<float>(Extend(history, token) % 1000) / 100, {}};
  for (int32_t i = 0; i < num_top; ++i) out.top.emplace_back(token, out.logprob);
  return out;
}

}  // namespace

ScriptedRunner::ScriptedRunner(const ScriptedOptions& options)
    : options_(options),
      cache_(static_cast<size_t>(options.limits.num_blocks) * options.limits.block_size, 0) {}

int32_t ScriptedRunner::NextToken(absl::Span<const int32_t> tokens, const SamplingParams& sampling,
                                  absl::Span<const int32_t> forbidden) const {
  uint64_t history = kEmptyHistory;
  for (int32_t token : tokens) history = Extend(history, token);
  uint64_t draw = Mix(history ^ Mix(sampling.seed.value_or(0) + tokens.size()));
  if (options_.eos_every > 0 && draw % options_.eos_every == 0 &&
      !Contains(forbidden, options_.eos_id)) {
    return options_.eos_id;
  }
  for (;; draw = Mix(draw + 1)) {
    const int32_t id = options_.first_id + static_cast<int32_t>((draw >> 8) % options_.num_ids);
    if (!Contains(forbidden, id)) return id;
  }
}

float ScriptedRunner::LogprobOf(absl::Span<const int32_t> tokens, int32_t id) const {
  uint64_t history = kEmptyHistory;
  for (int32_t token : tokens) history = Extend(history, token);
  return Pretend(history, id, 0).logprob;
}

absl::StatusOr<StepResult> ScriptedRunner::Run(const Batch& batch) {
  ++steps_;
  if (before_step_) before_step_(batch);
  if (steps_ == fail_at_) return absl::InternalError("scripted device fault");
  if (absl::Status status = CheckBatch(batch); !status.ok()) return status;
  StepResult result;
  for (const BatchRow& row : batch.rows) {
    if (absl::Status status = Replay(row); !status.ok()) return status;
    result.rows.push_back(Score(row));
    if (steps_ == garbage_at_ && result.rows.back().sampled) {
      result.rows.back().sampled->id = options_.limits.vocab_size;
    }
  }
  tokens_run_ += batch.num_tokens;
  return result;
}

absl::Status ScriptedRunner::CheckBatch(const Batch& batch) const {
  const RunnerLimits& limits = options_.limits;
  int32_t num_tokens = 0;
  for (const BatchRow& row : batch.rows) {
    if (absl::Status status = CheckRow(row); !status.ok()) return status;
    num_tokens += row.num_scheduled;
  }
  if (batch.rows.empty() || static_cast<int32_t>(batch.rows.size()) > limits.max_sequences) {
    return absl::InternalError(absl::StrCat("batch of ", batch.rows.size(), " rows"));
  }
  if (num_tokens != batch.num_tokens || num_tokens > limits.max_batch_tokens) {
    return absl::InternalError(
        absl::StrCat("batch of ", num_tokens, " tokens says ", batch.num_tokens));
  }
  return absl::OkStatus();
}

absl::Status ScriptedRunner::CheckRow(const BatchRow& row) const {
  const RunnerLimits& limits = options_.limits;
  const int32_t end = row.num_computed + row.num_scheduled;
  const int32_t known = static_cast<int32_t>(row.tokens.size());
  const auto fault = [&](absl::string_view what) {
    return absl::InternalError(absl::StrCat("sequence ", row.sequence_id, ": ", what, " (computed ",
                                            row.num_computed, ", scheduled ", row.num_scheduled,
                                            ", known ", known, ")"));
  };
  if (row.num_scheduled < 1 || row.num_computed < 0) return fault("an empty row");
  if (end > known || known > limits.max_context) return fault("tokens beyond what is known");
  if (row.sample && end != known) return fault("samples before the last known token");
  if (static_cast<int32_t>(row.block_table.size()) * limits.block_size < end) {
    return fault("block table too short");
  }
  for (int32_t block : row.block_table) {
    if (block < 0 || block >= limits.num_blocks) return fault("block out of range");
  }
  for (int32_t id : row.tokens) {
    if (id < 0 || id >= limits.vocab_size) return fault("token out of range");
  }
  return absl::OkStatus();
}

// Checks what should be in the cache, then writes what is scheduled.
absl::Status ScriptedRunner::Replay(const BatchRow& row) {
  const int32_t block_size = options_.limits.block_size;
  uint64_t history = kEmptyHistory;
  for (int32_t p = 0; p < row.num_computed + row.num_scheduled; ++p) {
    history = Extend(history, row.tokens[p]);
    uint64_t& slot = cache_[row.block_table[p / block_size] * block_size + p % block_size];
    if (p < row.num_computed && slot != history) {
      return absl::InternalError(absl::StrCat("sequence ", row.sequence_id, ": block ",
                                              row.block_table[p / block_size],
                                              " does not hold its position ", p));
    }
    slot = history;
  }
  return absl::OkStatus();
}

RowResult ScriptedRunner::Score(const BatchRow& row) const {
  RowResult out;
  uint64_t history = kEmptyHistory;
  for (int32_t p = 0; p < row.num_computed + row.num_scheduled; ++p) {
    history = Extend(history, row.tokens[p]);
    if (row.prompt_logprobs >= 0 && p >= row.num_computed && p + 1 < row.prompt_length &&
        p + 1 > row.prompt_scored) {
      out.prompt_logprobs.push_back(Pretend(history, row.tokens[p + 1], row.prompt_logprobs));
    }
  }
  if (row.sample) {
    std::optional<int32_t> id = script_ ? script_(row) : std::nullopt;
    if (!id) id = NextToken(row.tokens, *row.sampling, row.forbidden);
    out.sampled = Pretend(history, *id, std::max(row.logprobs, 0));
  }
  return out;
}

}  // namespace nibble

// Bench: the interleaved tests, and what they need of a runner.
#include <algorithm>
#include <utility>

#include "cli/bench.h"
#include "cli/bench_report.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

int32_t Largest(const std::vector<int32_t>& values) {
  return *std::max_element(values.begin(), values.end());
}

// Short passes on the real shapes: pages of weights and cache are touched, threads are awake.
absl::Status WarmUp(BenchSequences& sequences, const SequencesShape& shape, const Clock& clock) {
  constexpr int32_t kPrompt = 32, kGenerate = 4;
  const int32_t prompt = std::min(kPrompt, shape.prompt_tokens);
  NIBBLE_RETURN_IF_ERROR(sequences.Prefill(1, prompt, clock).status());
  if (shape.generate_tokens == 0) return absl::OkStatus();
  return sequences.Decode(1, prompt, std::min(kGenerate, shape.generate_tokens), clock).status();
}

// How much of the work is done. A step costs about as much as its tokens and kStepTokens more
// would in a long prefill: reading the weights.
class Work {
 public:
  explicit Work(std::function<void(int64_t, int64_t)> progress) : progress_(std::move(progress)) {}
  void Expect(int64_t tokens, int64_t steps) { total_ += tokens + steps * kStepTokens; }
  void Step(int32_t tokens) {
    done_ = std::min(done_ + tokens + kStepTokens, total_);
    if (progress_) progress_(done_, total_);
  }
  void Finish() {
    if (progress_) progress_(total_, total_);
  }

 private:
  static constexpr int64_t kStepTokens = 8;
  std::function<void(int64_t, int64_t)> progress_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

void ExpectAll(const BenchFlags& flags, const std::vector<BenchResult>& results,
               int32_t max_batch_tokens, Work& work) {
  const auto steps = [&](int64_t tokens) { return tokens / max_batch_tokens + 1; };
  for (const BenchResult& result : results) {
    const bool decodes = result.generate_tokens > 0;
    work.Expect(flags.repeat * result.num_tokens(),
                flags.repeat * (decodes ? result.generate_tokens : steps(result.num_tokens())));
  }
  const SequencesShape shape = ShapeOf(flags);
  const int64_t filled = int64_t{shape.num_sequences} * shape.prompt_tokens;
  if (!flags.context.empty()) work.Expect(filled, steps(filled));
}

}  // namespace

double BenchResult::MedianRate() const { return Median(tokens_per_second); }

std::vector<int32_t> DecodeContexts(const BenchFlags& flags) {
  std::vector<int32_t> contexts = flags.context.empty() ? flags.prompt_tokens : flags.context;
  if (flags.context.empty()) std::erase(contexts, 0);
  return flags.generate_tokens > 0 ? contexts : std::vector<int32_t>();
}

SequencesShape ShapeOf(const BenchFlags& flags) {
  SequencesShape shape;
  shape.num_sequences = Largest(flags.batch);
  shape.prompt_tokens = Largest(flags.prompt_tokens);
  const std::vector<int32_t> contexts = DecodeContexts(flags);
  if (!contexts.empty()) shape.prompt_tokens = std::max(shape.prompt_tokens, Largest(contexts));
  shape.generate_tokens = flags.generate_tokens;
  return shape;
}

absl::StatusOr<std::vector<BenchResult>> Bench(ModelRunner& runner, const BenchFlags& flags,
                                               const Clock& clock,
                                               std::function<void(int64_t, int64_t)> progress) {
  const SequencesShape shape = ShapeOf(flags);
  NIBBLE_RETURN_IF_ERROR(BenchSequences::Fits(runner.limits(), shape));
  std::vector<BenchResult> results;
  const int32_t generate = flags.generate_tokens;
  for (const int32_t prompt : flags.prompt_tokens) {
    if (prompt == 0) continue;
    for (const int32_t batch : flags.batch) {
      results.push_back({"prefill", prompt, 0, 0, batch, {}, 0, "", {}});
    }
  }
  for (const int32_t context : DecodeContexts(flags)) {
    for (const int32_t batch : flags.batch) {
      results.push_back({"decode", context, generate, context, batch, {}, 0, "", {}});
    }
  }
  Work work(std::move(progress));
  ExpectAll(flags, results, runner.limits().max_batch_tokens, work);
  BenchSequences sequences(runner, shape, [&work](int32_t tokens) { work.Step(tokens); });
  NIBBLE_RETURN_IF_ERROR(WarmUp(sequences, shape, clock));
  for (int32_t repeat = 0; repeat < flags.repeat; ++repeat) {
    for (BenchResult& result : results) {
      NIBBLE_ASSIGN_OR_RETURN(const Duration took,
                              result.generate_tokens > 0
                                  ? sequences.Decode(result.batch, result.context, generate, clock)
                                  : sequences.Prefill(result.batch, result.prompt_tokens, clock));
      result.tokens_per_second.push_back(static_cast<double>(result.num_tokens()) / Seconds(took));
    }
  }
  work.Finish();
  return results;
}

}  // namespace nibble

#include "engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/batch.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// One window on its way through the runner. It owns the blocks slot * blocks .. slot * blocks +
// blocks - 1.
struct Window {
  std::vector<int32_t> ids;
  std::vector<int32_t> block_table;
  int32_t num_computed = 0;
};

class Evaluation {
 public:
  Evaluation(ModelRunner& runner, const PerplexityOptions& options)
      : runner_(runner), limits_(runner.limits()), options_(options) {
    const int32_t blocks = BlocksPerWindow();
    const int32_t at_once = std::min({limits_.max_sequences, limits_.num_blocks / blocks,
                                      std::max(1, limits_.max_batch_tokens / options.window)});
    NIBBLE_CHECK(at_once >= 1);  // the cache holds a sequence of max_context tokens
    windows_.resize(at_once);
    for (int32_t slot = 0; slot < at_once; ++slot) {
      for (int32_t b = 0; b < blocks; ++b) {
        windows_[slot].block_table.push_back(slot * blocks + b);
      }
    }
  }

  int32_t num_slots() const { return static_cast<int32_t>(windows_.size()); }

  // Runs up to num_slots() neighbouring windows of `ids` from an empty cache; the sum of -log p of
  // their targets.
  absl::StatusOr<double> Run(absl::Span<const int32_t> ids, int32_t num_windows) {
    for (int32_t w = 0; w < num_windows; ++w) {
      const auto part = ids.subspan(size_t(w) * options_.window, options_.window);
      windows_[w].ids.assign(part.begin(), part.end());
      if (options_.bos_id >= 0) windows_[w].ids[0] = options_.bos_id;
      windows_[w].num_computed = 0;
    }
    double nll = 0;
    while (windows_[num_windows - 1].num_computed < options_.window) {
      const Batch batch = NextBatch(num_windows);
      NIBBLE_ASSIGN_OR_RETURN(const StepResult result, runner_.Run(batch));
      NIBBLE_CHECK(result.rows.size() == batch.rows.size());
      for (const RowResult& row : result.rows) {
        for (const Logprob& target : row.prompt_logprobs) nll -= target.logprob;
      }
    }
    return nll;
  }

 private:
  int32_t BlocksPerWindow() const {
    return (options_.window + limits_.block_size - 1) / limits_.block_size;
  }

  // As many tokens as a step takes, earlier windows first.
  Batch NextBatch(int32_t num_windows) {
    Batch batch;
    for (int32_t w = 0; w < num_windows; ++w) {
      Window& window = windows_[w];
      BatchRow row;
      row.sequence_id = w;
      row.tokens = window.ids;
      row.prompt_length = options_.window;
      row.num_computed = window.num_computed;
      row.num_scheduled = std::min(options_.window - window.num_computed,
                                   limits_.max_batch_tokens - batch.num_tokens);
      if (row.num_scheduled <= 0) continue;
      row.block_table = window.block_table;
      row.sampling = &sampling_;
      row.prompt_logprobs = 0;
      row.prompt_scored = std::max(options_.skip - 1, window.num_computed);
      window.num_computed += row.num_scheduled;
      batch.num_tokens += row.num_scheduled;
      batch.rows.push_back(row);
    }
    return batch;
  }

  ModelRunner& runner_;
  const RunnerLimits limits_;
  const PerplexityOptions options_;
  const SamplingParams sampling_;
  std::vector<Window> windows_;
};

}  // namespace

absl::StatusOr<PerplexityResult> EvaluatePerplexity(
    ModelRunner& runner, absl::Span<const int32_t> ids, const PerplexityOptions& options,
    std::function<void(int64_t, int64_t)> progress) {
  NIBBLE_RETURN_IF_ERROR(CheckWindows(runner.limits(), ids.size(), options));
  Evaluation evaluation(runner, options);
  PerplexityResult result;
  result.windows = static_cast<int64_t>(ids.size()) / options.window;
  result.tokens = result.windows * (options.window - options.skip);
  double nll = 0;
  for (int64_t first = 0; first < result.windows; first += evaluation.num_slots()) {
    const int32_t n =
        static_cast<int32_t>(std::min<int64_t>(evaluation.num_slots(), result.windows - first));
    NIBBLE_ASSIGN_OR_RETURN(const double part,
                            evaluation.Run(ids.subspan(first * options.window), n));
    nll += part;
    if (progress) progress(first + n, result.windows);
  }
  result.nll = nll / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.nll);
  return result;
}

}  // namespace nibble

#include "engine/eval/perplexity.h"

#include <cmath>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/eval/passages.h"

namespace nibble {

absl::StatusOr<PerplexityResult> EvaluatePerplexity(
    ModelRunner& runner, absl::Span<const int32_t> ids, const PerplexityOptions& options,
    std::function<void(int64_t, int64_t)> progress) {
  NIBBLE_RETURN_IF_ERROR(CheckWindows(runner.limits(), ids.size(), options));
  PerplexityResult result;
  result.windows = options.NumWindows(ids.size());
  result.tokens = options.NumScored(ids.size());
  std::vector<PassageScore> scores(result.windows);
  int64_t done = 0;
  const auto window = [&](int64_t index) {
    const auto part = ids.subspan(index * options.Stride(), options.window);
    Passage passage{{part.begin(), part.end()}, options.FirstScored(index)};
    if (options.bos_id >= 0) passage.ids[0] = options.bos_id;
    return passage;
  };
  const auto scored = [&](int64_t index, PassageScore score) {
    scores[index] = score;
    if (progress) progress(++done, result.windows);
  };
  NIBBLE_RETURN_IF_ERROR(ScorePassages(runner, options.window, result.windows, window, scored));
  PassageScore all;
  for (const PassageScore& score : scores) {
    all.sum -= score.sum;
    all.squares += score.squares;
  }
  const Estimate nll = EstimateMean(all.sum, all.squares, static_cast<double>(result.tokens));
  result.nll = nll.mean;
  result.nll_error = nll.standard_error;
  result.perplexity = std::exp(result.nll);
  return result;
}

}  // namespace nibble

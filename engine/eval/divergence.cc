#include "engine/eval/divergence.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/batch.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// Of the base's logits, held until the candidate has run the same tokens: 341 positions of 49k
// words, enough for prefill at full speed.
constexpr int64_t kHeldBytes = int64_t{64} << 20;

// A runner on its way through one window after the other, each in the same blocks.
class Side {
 public:
  explicit Side(LogitsRunner& runner, const WindowOptions& options)
      : runner_(runner), options_(options) {
    const int32_t block_size = runner.limits().block_size;
    for (int32_t b = 0; b * block_size < options.window; ++b) block_table_.push_back(b);
  }

  // Tokens first .. first + n - 1 of `window`; the visitor sees the positions whose next token is
  // scored.
  absl::Status Run(absl::Span<const int32_t> window, int32_t first, int32_t n,
                   absl::FunctionRef<void(int32_t position, absl::Span<const float>)> visit) {
    Batch batch;
    BatchRow row;
    row.tokens = window;
    row.prompt_length = options_.window;
    row.num_computed = first;
    row.num_scheduled = n;
    row.block_table = block_table_;
    row.sampling = &sampling_;
    row.prompt_scored = options_.skip - 1;
    batch.rows.push_back(row);
    batch.num_tokens = n;
    return runner_.RunForLogits(batch,
                                [&](int32_t, int32_t position, absl::Span<const float> logits) {
                                  visit(position, logits);
                                });
  }

 private:
  LogitsRunner& runner_;
  const WindowOptions options_;
  const SamplingParams sampling_;
  std::vector<int32_t> block_table_;
};

// What was found at every scored position so far.
class Tally {
 public:
  void Add(const TokenDivergence& token) {
    kl_.push_back(std::max(0.0, token.kl));  // rounding may leave it a little below
    delta_.push_back(token.candidate_logprob - token.base_logprob);
    base_nll_ -= token.base_logprob;
    candidate_nll_ -= token.candidate_logprob;
    num_same_ += token.same_top;
  }

  DivergenceResult Summarize(int64_t windows) {
    const double n = static_cast<double>(kl_.size());
    DivergenceResult result;
    result.windows = windows;
    result.tokens = static_cast<int64_t>(kl_.size());
    result.kl = EstimateMean(kl_);
    result.delta = EstimateMean(delta_);
    result.base_nll = base_nll_ / n;
    result.candidate_nll = candidate_nll_ / n;
    const double share = static_cast<double>(num_same_) / n;
    result.agreement = {share, std::sqrt(share * (1 - share) / n)};
    std::sort(kl_.begin(), kl_.end());
    result.kl_median = Quantile(0.5);
    result.kl_p90 = Quantile(0.9);
    result.kl_p99 = Quantile(0.99);
    result.kl_max = kl_.back();
    return result;
  }

 private:
  static Estimate EstimateMean(const std::vector<double>& values) {
    const double n = static_cast<double>(values.size());
    double sum = 0, squares = 0;
    for (double value : values) sum += value;
    const double mean = sum / n;
    for (double value : values) squares += (value - mean) * (value - mean);
    return {mean, n > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
  }

  double Quantile(double q) const {  // kl_ is sorted
    const double at = q * static_cast<double>(kl_.size() - 1);
    const size_t low = static_cast<size_t>(at);
    const size_t high = std::min(low + 1, kl_.size() - 1);
    return kl_[low] + (at - static_cast<double>(low)) * (kl_[high] - kl_[low]);
  }

  std::vector<double> kl_, delta_;
  double base_nll_ = 0, candidate_nll_ = 0;
  int64_t num_same_ = 0;
};

class Evaluation {
 public:
  Evaluation(LogitsRunner& base, LogitsRunner& candidate, const WindowOptions& options)
      : options_(options),
        vocab_size_(base.limits().vocab_size),
        base_(base, options),
        candidate_(candidate, options) {
    const int64_t held = std::max<int64_t>(kHeldBytes / (int64_t{4} * vocab_size_), 1);
    chunk_ = static_cast<int32_t>(std::min<int64_t>(
        {held, base.limits().max_batch_tokens, candidate.limits().max_batch_tokens}));
    held_.resize(int64_t{std::min(chunk_, options.window)} * vocab_size_);
  }

  absl::Status RunWindow(absl::Span<const int32_t> ids, int64_t index) {
    window_.assign(ids.begin(), ids.end());
    if (options_.bos_id >= 0) window_[0] = options_.bos_id;
    // The last token is a target only: nothing follows it.
    const int32_t end = options_.window - 1;
    for (int32_t first = 0; first < end; first += chunk_) {
      NIBBLE_RETURN_IF_ERROR(RunChunk(first, std::min(chunk_, end - first), index));
    }
    return absl::OkStatus();
  }

  DivergenceResult Summarize(int64_t windows) { return tally_.Summarize(windows); }

 private:
  absl::Status RunChunk(int32_t first, int32_t n, int64_t index) {
    NIBBLE_RETURN_IF_ERROR(
        base_.Run(window_, first, n, [&](int32_t position, absl::Span<const float> logits) {
          NIBBLE_CHECK(static_cast<int32_t>(logits.size()) == vocab_size_);
          std::copy(logits.begin(), logits.end(), Held(position - first).begin());
        }));
    absl::Status broken;
    NIBBLE_RETURN_IF_ERROR(
        candidate_.Run(window_, first, n, [&](int32_t position, absl::Span<const float> logits) {
          const absl::Span<const float> held = Held(position - first);
          const TokenDivergence token = CompareLogits(held, logits, window_[position + 1]);
          if (!std::isfinite(token.kl + token.base_logprob + token.candidate_logprob)) {
            if (broken.ok()) broken = NotFinite(held, index, position);
            return;
          }
          tally_.Add(token);
        }));
    return broken;
  }

  static absl::Status NotFinite(absl::Span<const float> base, int64_t index, int32_t position) {
    const bool base_is_finite =
        std::all_of(base.begin(), base.end(), [](float x) { return std::isfinite(x); });
    return absl::InternalError(absl::StrCat("the ", base_is_finite ? "candidate" : "base",
                                            "'s logits at position ", position, " of window ",
                                            index, " are not finite"));
  }

  absl::Span<float> Held(int32_t i) {
    return absl::MakeSpan(held_).subspan(int64_t{i} * vocab_size_, vocab_size_);
  }

  const WindowOptions options_;
  const int32_t vocab_size_;
  Side base_, candidate_;
  int32_t chunk_ = 0;  // tokens that both run before the next ones
  std::vector<int32_t> window_;
  std::vector<float> held_;  // [chunk, vocab_size] of the base
  Tally tally_;
};

struct Peak {
  float logit;
  size_t id;
};

Peak FindPeak(absl::Span<const float> logits) {
  Peak peak{logits[0], 0};
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > peak.logit) peak = {logits[i], i};
  }
  return peak;
}

}  // namespace

TokenDivergence CompareLogits(absl::Span<const float> base, absl::Span<const float> candidate,
                              int32_t target) {
  NIBBLE_CHECK(base.size() == candidate.size());
  NIBBLE_CHECK(target >= 0 && static_cast<size_t>(target) < base.size());
  const Peak p = FindPeak(base), q = FindPeak(candidate);
  double p_sum = 0, q_sum = 0, weighted = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const double a = static_cast<double>(base[i]) - p.logit;
    const double b = static_cast<double>(candidate[i]) - q.logit;
    const double weight = std::exp(a);
    p_sum += weight;
    q_sum += std::exp(b);
    weighted += weight * (a - b);
  }
  const double log_p_sum = std::log(p_sum), log_q_sum = std::log(q_sum);
  TokenDivergence token;
  token.kl = weighted / p_sum - (log_p_sum - log_q_sum);
  token.base_logprob = static_cast<double>(base[target]) - p.logit - log_p_sum;
  token.candidate_logprob = static_cast<double>(candidate[target]) - q.logit - log_q_sum;
  token.same_top = p.id == q.id;
  return token;
}

absl::StatusOr<DivergenceResult> EvaluateDivergence(
    LogitsRunner& base, LogitsRunner& candidate, absl::Span<const int32_t> ids,
    const WindowOptions& options, std::function<void(int64_t, int64_t)> progress) {
  const int32_t vocab_size = base.limits().vocab_size;
  if (candidate.limits().vocab_size != vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the base's vocabulary has ", vocab_size, " words, the candidate's ",
                     candidate.limits().vocab_size, ": they cannot be compared"));
  }
  NIBBLE_RETURN_IF_ERROR(CheckWindows(base.limits(), ids.size(), options));
  NIBBLE_RETURN_IF_ERROR(CheckWindows(candidate.limits(), ids.size(), options));
  Evaluation evaluation(base, candidate, options);
  const int64_t windows = static_cast<int64_t>(ids.size()) / options.window;
  for (int64_t w = 0; w < windows; ++w) {
    NIBBLE_RETURN_IF_ERROR(
        evaluation.RunWindow(ids.subspan(w * options.window, options.window), w));
    if (progress) progress(w + 1, windows);
  }
  return evaluation.Summarize(windows);
}

}  // namespace nibble

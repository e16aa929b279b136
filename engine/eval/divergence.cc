#include "engine/eval/divergence.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// Of the base's logits, held until the candidate has run the same tokens: 341 positions of 49k
// words, enough for prefill at full speed.
constexpr int64_t kHeldBytes = int64_t{64} << 20;

// What was found at every scored position so far.
class Tally {
 public:
  void Add(const TokenDivergence& token) {
    kl_.push_back(std::max(0.0, token.kl));  // rounding may leave it a little below
    delta_.push_back(token.candidate_logprob - token.base_logprob);
    probability_.push_back(std::exp(token.candidate_logprob) - std::exp(token.base_logprob));
    base_nll_.push_back(-token.base_logprob);
    candidate_nll_.push_back(-token.candidate_logprob);
    num_same_ += token.same_top;
  }

  DivergenceResult Summarize(int64_t windows) {
    const double n = static_cast<double>(kl_.size());
    DivergenceResult result;
    result.windows = windows;
    result.tokens = static_cast<int64_t>(kl_.size());
    result.kl = EstimateMean(kl_);
    result.delta = EstimateMean(delta_);
    result.probability_rms = EstimateRootMeanSquare(probability_);
    result.base_nll = EstimateMean(base_nll_);
    result.candidate_nll = EstimateMean(candidate_nll_);
    const double share = static_cast<double>(num_same_) / n;
    result.agreement = {share, std::sqrt(share * (1 - share) / n)};
    std::sort(kl_.begin(), kl_.end());
    result.kl_median = EstimateQuantile(kl_, 0.5);
    result.kl_p90 = EstimateQuantile(kl_, 0.9);
    result.kl_p99 = EstimateQuantile(kl_, 0.99);
    result.kl_max = kl_.back();
    return result;
  }

 private:
  std::vector<double> kl_, delta_, probability_, base_nll_, candidate_nll_;
  int64_t num_same_ = 0;
};

class Evaluation {
 public:
  Evaluation(BaseDistributions& base, LogitsRunner& candidate, const WindowOptions& options)
      : options_(options),
        vocab_size_(base.vocab_size()),
        base_(base),
        candidate_(MakeRunningBase(candidate, options)) {
    const int64_t held = std::max<int64_t>(kHeldBytes / (int64_t{4} * vocab_size_), 1);
    chunk_ = static_cast<int32_t>(
        std::min<int64_t>({held, base_.max_tokens(), candidate_->max_tokens()}));
    held_.resize(int64_t{std::min(chunk_, options.window)} * vocab_size_);
    targets_.resize(std::min(chunk_, options.window));
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
        base_.Run(window_, index, first, n, [&](int32_t position, const BaseRow& row) {
          NIBBLE_CHECK(static_cast<int32_t>(row.logits.size()) == vocab_size_);
          std::copy(row.logits.begin(), row.logits.end(), Held(position - first).begin());
          targets_[position - first] = row.target_logprob;
        }));
    absl::Status broken;
    NIBBLE_RETURN_IF_ERROR(
        candidate_->Run(window_, index, first, n, [&](int32_t position, const BaseRow& row) {
          const absl::Span<const float> held = Held(position - first);
          TokenDivergence token = CompareLogits(held, row.logits, window_[position + 1]);
          if (targets_[position - first]) token.base_logprob = *targets_[position - first];
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
  BaseDistributions& base_;
  const std::unique_ptr<BaseDistributions> candidate_;
  int32_t chunk_ = 0;  // tokens that both run before the next ones
  std::vector<int32_t> window_;
  std::vector<float> held_;                    // [chunk, vocab_size] of the base
  std::vector<std::optional<float>> targets_;  // [chunk]
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

Estimate PerplexityRatio(const DivergenceResult& result) {
  const double ratio = std::exp(-result.delta.mean);
  return {ratio, ratio * result.delta.standard_error};
}

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
    BaseDistributions& base, LogitsRunner& candidate, absl::Span<const int32_t> ids,
    const WindowOptions& options, std::function<void(int64_t, int64_t)> progress) {
  const int32_t vocab_size = base.vocab_size();
  if (candidate.limits().vocab_size != vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the base's vocabulary has ", vocab_size, " words, the candidate's ",
                     candidate.limits().vocab_size, ": they cannot be compared"));
  }
  NIBBLE_RETURN_IF_ERROR(CheckWindows(candidate.limits(), ids.size(), options));
  NIBBLE_RETURN_IF_ERROR(base.Check(ids, options));
  Evaluation evaluation(base, candidate, options);
  const int64_t windows = options.NumWindows(ids.size());
  for (int64_t w = 0; w < windows; ++w) {
    NIBBLE_RETURN_IF_ERROR(
        evaluation.RunWindow(ids.subspan(w * options.Stride(), options.window), w));
    if (progress) progress(w + 1, windows);
  }
  return evaluation.Summarize(windows);
}

absl::StatusOr<DivergenceResult> EvaluateDivergence(
    LogitsRunner& base, LogitsRunner& candidate, absl::Span<const int32_t> ids,
    const WindowOptions& options, std::function<void(int64_t, int64_t)> progress) {
  NIBBLE_RETURN_IF_ERROR(CheckWindows(base.limits(), ids.size(), options));
  return EvaluateDivergence(*MakeRunningBase(base, options), candidate, ids, options,
                            std::move(progress));
}

}  // namespace nibble

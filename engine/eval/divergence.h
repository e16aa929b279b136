// How far a candidate's next-token distributions lie from a base's, on the same tokens of a text:
// the two differ in the activations, the type of the KV cache, the instruction set or the weights.
//
// At each scored position (windows.h) p is the base's softmax over the whole vocabulary, q the
// candidate's, natural logarithms, no temperature:
//   KL(p || q) = sum_i p_i (log p_i - log q_i), in nats: what is lost when q stands in for p;
//   agreement: the likeliest token is the same (lowest id on ties);
//   delta = log q(target) - log p(target), the target being the token that the text has next;
//   probability_rms = root mean square of q(target) - p(target).
// A standard error takes the scored tokens as independent. Both runners see the same tokens, so
// that of the mean delta (and of the ratio of the perplexities, exp(-mean delta)) is a paired one,
// far smaller than that of either perplexity.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/eval/base_distributions.h"
#include "engine/eval/estimate.h"
#include "engine/eval/windows.h"
#include "engine/model/logits_runner.h"

namespace nibble {

struct DivergenceResult {
  Estimate kl;                         // nats a token
  Estimate kl_median, kl_p90, kl_p99;  // quantiles
  double kl_max = 0;                   // of these tokens; more tokens find a larger one
  Estimate agreement;                  // share of tokens, 0 to 1
  Estimate delta;                      // nats a token
  Estimate probability_rms;            // 0 to 1
  Estimate base_nll, candidate_nll;    // nats a token
  int64_t tokens = 0;                  // scored
  int64_t windows = 0;
};

// exp(-mean delta), the ratio of the perplexities, candidate to base; its error, to first order, is
// a paired one.
Estimate PerplexityRatio(const DivergenceResult& result);

// Runs the windows through both, a chunk of tokens at a time: at most 64 MiB of the base's logits
// are held (one position's, where that is more). Cost: two forward passes with the head at every
// scored position, and two exponentials a scored position and word of the vocabulary.
// `progress` (may be null) hears windows done and total.
// INVALID_ARGUMENT when the vocabularies differ in size or CheckWindows refuses; INTERNAL names the
// side, the window and the position of logits that are not finite.
absl::StatusOr<DivergenceResult> EvaluateDivergence(LogitsRunner& base, LogitsRunner& candidate,
                                                    absl::Span<const int32_t> ids,
                                                    const WindowOptions& options,
                                                    std::function<void(int64_t, int64_t)> progress);
// Against any base; one from a file costs a forward pass less.
absl::StatusOr<DivergenceResult> EvaluateDivergence(BaseDistributions& base,
                                                    LogitsRunner& candidate,
                                                    absl::Span<const int32_t> ids,
                                                    const WindowOptions& options,
                                                    std::function<void(int64_t, int64_t)> progress);

// One position. Not finite (any member) when a logit is not.
struct TokenDivergence {
  double kl = 0;
  double base_logprob = 0, candidate_logprob = 0;  // of the target
  bool same_top = false;
};
// REQUIRES base.size() == candidate.size() > target >= 0.
TokenDivergence CompareLogits(absl::Span<const float> base, absl::Span<const float> candidate,
                              int32_t target);

}  // namespace nibble

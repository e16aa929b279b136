// Perplexity of a text: exp of the mean negative log-likelihood (natural log) a token, over the
// positions that windows.h says.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/eval/estimate.h"
#include "engine/eval/windows.h"
#include "engine/model/model_runner.h"

namespace nibble {

using PerplexityOptions = WindowOptions;

struct PerplexityResult {
  double perplexity = 0;
  double nll = 0;        // mean, nats a token
  double nll_error = 0;  // its standard error; that of the perplexity is perplexity times it
  int64_t tokens = 0;    // scored
  int64_t windows = 0;
};

// INVALID_ARGUMENT when the text is shorter than one window or the window longer than the runner's
// context.
absl::StatusOr<PerplexityResult> EvaluatePerplexity(ModelRunner& runner,
                                                    absl::Span<const int32_t> ids,
                                                    const PerplexityOptions& options,
                                                    std::function<void(int64_t, int64_t)> progress);

}  // namespace nibble

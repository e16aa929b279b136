// Perplexity of a text: exp of the mean negative log-likelihood (natural log) a token.
//
// Protocol: tokenize the whole text (no special parsing); cut into windows of `window` ids, tail shorter than a window
// dropped. With a BOS id (`Bos`), it replaces the first id of each window. The window is run from an empty cache, and
// positions skip..window-1 are scored as targets (position 0 never is). llama.cpp's protocol, which reads the logits from
// position window / 2 on, is skip = window / 2 + 1.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct PerplexityOptions {
  int32_t window = 512;
  int32_t skip = 1;      // first scored target position, 1..window-1
  int32_t bos_id = -1;   // -1: windows begin with their own first id
};

struct PerplexityResult {
  double perplexity = 0;
  double nll = 0;        // mean, nats a token
  int64_t tokens = 0;    // scored
  int64_t windows = 0;
};

// INVALID_ARGUMENT when the text is shorter than one window or the window longer than the runner's context.
absl::StatusOr<PerplexityResult> EvaluatePerplexity(ModelRunner& runner, absl::Span<const int32_t> ids,
                                                    const PerplexityOptions& options,
                                                    std::function<void(int64_t, int64_t)> progress);

}  // namespace nibble

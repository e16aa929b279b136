// How a text is cut for an evaluation; perplexity and divergence score the same positions.
//
// Protocol: tokenize the whole text (no special parsing); cut into windows of `window` ids, a tail
// shorter than a window dropped. With a BOS id, it replaces the first id of each window. A window
// runs from an empty cache, and positions skip .. window - 1 are scored as targets (position 0
// never is). llama.cpp's protocol, which reads the logits from position window / 2 on, is skip =
// window / 2 + 1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct WindowOptions {
  int32_t window = 512;
  int32_t skip = 1;     // first scored target position, 1 .. window - 1
  int32_t bos_id = -1;  // -1: windows begin with their own first id
};

// INVALID_ARGUMENT naming what is out of range, or that a text of `num_ids` holds no window.
absl::Status CheckWindows(const RunnerLimits& limits, size_t num_ids, const WindowOptions& options);

}  // namespace nibble

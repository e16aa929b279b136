// How a text is cut for an evaluation; perplexity and divergence score the same positions.
//
// Protocol: tokenize the whole text (no special parsing); a window of `window` ids begins at every
// multiple of `stride`, a tail shorter than a window dropped. With a BOS id, it replaces the first
// id of each window. A window runs from an empty cache, and its positions FirstScored() ..
// window - 1 are scored as targets (position 0 never is).
//
// Without a stride of its own windows lie end to end, and all score positions skip .. window - 1;
// llama.cpp's protocol, which reads the logits from position window / 2 on, is skip = window / 2
// + 1. With a stride they overlap: the first window scores from skip on, every other one its last
// `stride` positions, so that no token is scored twice and each but the first window's has at least
// window - stride tokens before it. That costs window / stride times the work.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "engine/model/model_runner.h"

namespace nibble {

struct WindowOptions {
  int32_t window = 512;
  int32_t skip = 1;     // first scored target position, 1 .. window - 1
  int32_t stride = 0;   // 1 .. window; 0: window
  int32_t bos_id = -1;  // -1: windows begin with their own first id

  bool operator==(const WindowOptions&) const = default;

  int32_t Stride() const { return stride > 0 ? stride : window; }
  // Of window number `index`.
  int32_t FirstScored(int64_t index) const {
    return index == 0 || Stride() == window ? skip : window - Stride();
  }
  // REQUIRES CheckWindows for this many ids.
  int64_t NumWindows(size_t num_ids) const {
    return (static_cast<int64_t>(num_ids) - window) / Stride() + 1;
  }
  int64_t NumScored(size_t num_ids) const {
    return (window - FirstScored(0)) + (NumWindows(num_ids) - 1) * (window - FirstScored(1));
  }
};

// INVALID_ARGUMENT naming what is out of range, or that a text of `num_ids` holds no window.
absl::Status CheckWindows(const RunnerLimits& limits, size_t num_ids, const WindowOptions& options);

}  // namespace nibble

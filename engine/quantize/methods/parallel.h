// Work spread over threads, for loops whose passes write nothing in common.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace nibble::quantize {

// Calls fn(first, last) for ranges that together are 0 .. n - 1, on `threads` threads, this one
// among them; returns when all are done. Ranges are of `grain` (the last one shorter) whatever the
// threads are, so what a range computes never depends on their number. REQUIRES grain >= 1,
// threads >= 1.
void ParallelRanges(int64_t n, int64_t grain, int threads,
                    absl::FunctionRef<void(int64_t first, int64_t last)> fn);

}  // namespace nibble::quantize

// A calibration text's ids as the windows that are looked at.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace nibble::quantize {

// Calibration text as the evaluation protocol cuts it: windows of `window` ids, a shorter tail
// dropped, BOS in the place of each one's first id (bos_id < 0: kept). INVALID_ARGUMENT when there
// is not one window.
absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(absl::Span<const int32_t> ids,
                                                             int32_t window, int32_t bos_id);

}  // namespace nibble::quantize

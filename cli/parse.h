// Text of flag values to values and back. Every parser is total: an error says what was found and
// what is needed.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"

namespace nibble {

// "500ms", "30s", "1.5m", "2h", "0": at most ten years, not negative. INVALID_ARGUMENT otherwise.
absl::StatusOr<Duration> ParseDuration(absl::string_view text);
// The shortest form ParseDuration reads back to the same value, down to milliseconds: "30s",
// "1500ms", "2m".
std::string FormatDuration(Duration duration);

// "1,2,3" (spaces allowed, empty text: no ids). INVALID_ARGUMENT names the item.
absl::StatusOr<std::vector<int32_t>> ParseIntList(absl::string_view text);

// "1234=-100" to {1234, -100}. INVALID_ARGUMENT names the item.
absl::StatusOr<std::pair<int32_t, float>> ParseLogitBias(absl::string_view text);

// "80GB" (10^9), "24GiB" (2^30), kB, KiB, MB, MiB, TB, TiB and plain bytes; fractions are allowed
// before a unit. 1 byte to 2^62. INVALID_ARGUMENT otherwise.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// "70b" (10^9), "135m" (10^6), "1.5t" (10^12) in either case, and plain numbers: 1 to 10^15.
// INVALID_ARGUMENT otherwise.
absl::StatusOr<int64_t> ParseCount(absl::string_view text);

}  // namespace nibble

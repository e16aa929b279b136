// --method, --scheme and --order of `nibble quantize`: how words become one of the names that
// engine/quantize/methods/method.h knows.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/quantize/methods/method.h"

namespace nibble {

inline constexpr char kDefaultScheme[] = "int4-full-g32";

// `method` is a whole name ("gptq-actorder-int4-asym-g128"), which has scheme and order in it, or a
// word: rtn, gptq, gptq-clip, awq, awq-clip, clip, smoothquant. `order`: "sequential",
// "static-groups" or "act-order", of GPTQ only; empty: static-groups. INVALID_ARGUMENT names the
// flag, and what would work; for qat, the command that trains.
absl::StatusOr<quantize::Method> ParseMethodFlags(const std::string& method,
                                                  const std::string& scheme,
                                                  const std::string& order);

}  // namespace nibble

// Flags of `nibble quantize` that mean nothing beside the others: who typed one expects something
// that will not be.
#pragma once

#include "absl/status/status.h"
#include "cli/quantize_flags.h"
#include "engine/quantize/methods/method.h"

namespace nibble {

// `method` is null with --type. INVALID_ARGUMENT names a flag of the command line that would change
// nothing, and what it belongs to. Of variables nothing is said: NIBBLE_SEED may be meant for
// another subcommand.
absl::Status CheckAllUsed(const QuantizeFlags& flags, const quantize::Method* method);

}  // namespace nibble

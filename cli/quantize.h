// `nibble quantize`: from a full-precision model to a smaller one, by ggml's types
// (quantize_types.h) or by a method (quantize_method.h).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"

namespace nibble {

// INVALID_ARGUMENT: both name one file. ALREADY_EXISTS: `output` is there and may not be replaced;
// FAILED_PRECONDITION: it is not a regular file.
absl::Status CheckOutput(const std::string& model, const std::string& output, bool overwrite);

int RunQuantize(const QuantizeFlags& flags, const Io& io);

}  // namespace nibble

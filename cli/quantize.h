// `nibble quantize`: from a full-precision model to a smaller one, by ggml's types
// (quantize_types.h) or by a method (quantize_method.h).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cli/io.h"
#include "cli/quantize_flags.h"

namespace nibble {

struct NamedFile {
  absl::string_view flag;  // "--model"
  std::string path;        // empty: not given
};

// Whether `output` may be written. INVALID_ARGUMENT: it is one of `others`, which are read or
// written, too. ALREADY_EXISTS: it is there and may not be replaced; FAILED_PRECONDITION: it is not
// a regular file.
absl::Status CheckOutput(const NamedFile& output, absl::Span<const NamedFile> others,
                         bool overwrite);

int RunQuantize(const QuantizeFlags& flags, const Io& io);

}  // namespace nibble

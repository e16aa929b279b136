// The importance of a model's columns (engine/quantize/importance.h), measured on a text by the
// model itself.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "cli/io.h"
#include "engine/quantize/importance.h"

namespace nibble {

struct MeasuredImportance {
  Importance importance;
  int32_t windows = 0;
  int32_t window = 0;  // tokens of one
};

// Runs `text` through the model at `path` in windows of 512 tokens (as `nibble eval`; fewer where
// the model's context is shorter), with f32 activations. Costs one forward pass over the text and
// the memory the model takes to serve. Errors of loading, and INVALID_ARGUMENT for a text shorter
// than a window. `threads` as --threads. Progress goes to io.err.
absl::StatusOr<MeasuredImportance> MeasureImportance(const std::string& path,
                                                     const std::string& text, int32_t threads,
                                                     const Io& io);

}  // namespace nibble

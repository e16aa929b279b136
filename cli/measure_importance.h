// The importance of a model's columns (engine/quantize/importance.h), measured on a text by the
// model itself.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "cli/calibration_text.h"
#include "cli/io.h"
#include "engine/quantize/importance.h"

namespace nibble {

struct MeasuredImportance {
  Importance importance;
  int32_t windows = 0;
  int32_t length = 0;       // tokens of one
  std::string text_sha256;  // of the whole text
};

// Runs the windows of `text` through the model at `path`, with f32 activations. Costs one forward
// pass over them and the memory the model takes to serve. Errors of loading and of ReadCalibration,
// and DATA_LOSS for activations that are not finite. `threads` as --threads. Progress goes to
// io.err.
absl::StatusOr<MeasuredImportance> MeasureImportance(const std::string& path,
                                                     const CalibrationOptions& text,
                                                     int32_t threads, const Io& io);

}  // namespace nibble

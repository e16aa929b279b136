// The text that a quantization method looks at, as windows of token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"

namespace nibble {

struct CalibrationOptions {
  std::string path;       // empty: the sample that is built in
  int32_t windows = 128;  // at most
  int32_t length = 512;   // tokens of one, at most: the model's context may be shorter
  uint64_t seed = 1;      // chooses windows where the text has more
};

struct CalibrationText {
  std::vector<std::vector<int32_t>> windows;  // in the text's order
  int32_t length = 0;                         // of each
  std::string sha256;                         // of the text

  std::vector<int32_t> Joined() const;  // the windows one after the other
};

// Windows as `nibble eval` cuts them, with a BOS where the model asks for one. NOT_FOUND: no such
// file; INVALID_ARGUMENT: shorter than one window.
absl::StatusOr<CalibrationText> ReadCalibration(const CalibrationOptions& options,
                                                const ModelConfig& config,
                                                const Tokenizer& tokenizer);

// CutWindows (engine/quantize/calibration/cut_windows.h): what it refuses names --calibration and
// `length_flag`.
absl::StatusOr<std::vector<std::vector<int32_t>>> CutCalibration(absl::Span<const int32_t> ids,
                                                                 int32_t length, int32_t bos_id,
                                                                 absl::string_view length_flag);

// `count` of 0 .. total - 1 in rising order, drawn without replacement; all where there are not
// more. The same for a seed on every machine.
std::vector<int32_t> ChooseWindows(int32_t total, int32_t count, uint64_t seed);

}  // namespace nibble

// The calibration text that is built in, for who has none at hand: 200,000 bytes of public-domain
// English (World English Bible, King James Version, Jargon File, Devil's Dictionary; CC0-1.0), the
// same as tests/data/tiny/calib.txt. A text of the kind that the model will see is better.
#pragma once

#include "absl/strings/string_view.h"

namespace nibble::quantize {

absl::string_view CalibrationSample();

}  // namespace nibble::quantize

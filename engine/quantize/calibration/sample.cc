#include "engine/quantize/calibration/sample.h"

#include <cstddef>

// The assembler puts the file between two symbols: as a string literal it would be one of 200 kB.
asm(".section .rodata\n"
    "nibble_calibration_sample:\n"
    ".incbin \"" NIBBLE_CALIBRATION_SAMPLE
    "\"\n"
    "nibble_calibration_sample_end:\n"
    ".previous\n");
extern "C" {
extern const char nibble_calibration_sample[];
extern const char nibble_calibration_sample_end[];
}

namespace nibble::quantize {

absl::string_view CalibrationSample() {
  return {nibble_calibration_sample,
          static_cast<size_t>(nibble_calibration_sample_end - nibble_calibration_sample)};
}

}  // namespace nibble::quantize

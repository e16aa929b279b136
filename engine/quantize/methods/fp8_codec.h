// From f32 to the 8-bit floats: to nearest, ties to even, saturating. kernels/fp8.h has the way
// back and the formats.
#pragma once

#include <cstdint>

namespace nibble::quantize {

inline constexpr float kE4m3Max = 448.0f;
inline constexpr float kE5m2Max = 57344.0f;

// Beyond the range, infinities too: the largest finite value of that sign. NaN stays NaN. Total.
uint8_t F32ToE4m3(float value);
uint8_t F32ToE5m2(float value);

}  // namespace nibble::quantize

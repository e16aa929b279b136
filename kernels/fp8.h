// The two 8-bit floats as bit patterns (OCP 8-bit Floating Point Specification, revision 1.0) and
// their values. Scalar; the kernels decode registers of them by moving the bits into an f16
// (linear_fp8_inl.h).
#pragma once

#include <cstdint>

#include "kernels/half.h"

namespace nibble {

// 1 sign, 4 exponent (bias 7) and 3 mantissa bits: up to 448, no infinities.
constexpr bool E4m3IsNan(uint8_t code) { return (code & 0x7F) == 0x7F; }

// 1 sign, 5 exponent (bias 15) and 2 mantissa bits: the upper half of an f16. Up to 57344.
constexpr bool E5m2IsFinite(uint8_t code) { return (code & 0x7C) != 0x7C; }

inline float E5m2ToF32(uint8_t code) { return F16ToF32(static_cast<uint16_t>(code << 8)); }

// The bits fit an f16, whose exponent bias is 8 larger: subnormals come out right as well.
inline float E4m3ToF32(uint8_t code) {
  if (E4m3IsNan(code)) return F16ToF32(static_cast<uint16_t>(0x7E00 | (code & 0x80) << 8));
  return 256.0f * F16ToF32(static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7F) << 7));
}

}  // namespace nibble

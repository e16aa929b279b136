#include "engine/quantize/methods/fp8_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nibble::quantize {
namespace {

// `mantissa` bits below an exponent whose smallest normal value is 2^min_exponent.
uint8_t Encode(float value, int mantissa, int min_exponent, float max, uint8_t nan) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | nan;
  const float magnitude = std::min(std::fabs(value), max);
  // The step of the grid around it: that of its own exponent, or of the subnormals.
  const int exponent =
      std::max(static_cast<int>(std::bit_cast<uint32_t>(magnitude) >> 23) - 127, min_exponent);
  const float step = std::ldexp(1.0f, exponent - mantissa);
  const auto steps = static_cast<int>(std::nearbyint(magnitude / step));  // exact division
  // Codes count steps through all binades; a carry into the next one needs no care.
  return static_cast<uint8_t>(sign + ((exponent - min_exponent) << mantissa) + steps);
}

}  // namespace

uint8_t F32ToE4m3(float value) { return Encode(value, 3, -6, kE4m3Max, 0x7F); }
uint8_t F32ToE5m2(float value) { return Encode(value, 2, -14, kE5m2Max, 0x7E); }

}  // namespace nibble::quantize

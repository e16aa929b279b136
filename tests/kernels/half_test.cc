// Every code of either 16-bit float, and what lies between two of them.
#include "kernels/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble {
namespace {

// sign, `exponent` bits, `mantissa` bits: IEEE 754's formula.
double Value(uint16_t code, int exponent, int mantissa) {
  const int bias = (1 << (exponent - 1)) - 1, all_ones = (1 << exponent) - 1;
  const int e = (code >> mantissa) & all_ones, m = code & ((1 << mantissa) - 1);
  const double sign = (code & 0x8000) != 0 ? -1.0 : 1.0;
  if (e == all_ones) {
    return m != 0 ? std::numeric_limits<double>::quiet_NaN()
                  : sign * std::numeric_limits<double>::infinity();
  }
  return sign * std::ldexp(e == 0 ? m : m + (1 << mantissa), (e == 0 ? 1 : e) - bias - mantissa);
}

struct Codec {
  uint16_t (*encode)(float);
  float (*decode)(uint16_t);
  int exponent, mantissa;
  uint16_t infinity;
};
const Codec kCodecs[] = {{F32ToF16, F16ToF32, 5, 10, 0x7C00}, {F32ToBf16, Bf16ToF32, 8, 7, 0x7F80}};

TEST(HalfTest, EveryCodeHasItsValueAndComesBack) {
  for (const Codec& codec : kCodecs) {
    for (int i = 0; i < 0x10000; ++i) {
      const auto code = static_cast<uint16_t>(i);
      const float value = codec.decode(code);
      const double formula = Value(code, codec.exponent, codec.mantissa);
      if (std::isnan(formula)) {
        ASSERT_TRUE(std::isnan(value)) << i;
        ASSERT_TRUE(std::isnan(codec.decode(codec.encode(value)))) << i;
        continue;
      }
      ASSERT_EQ(value, formula) << i;
      ASSERT_EQ(codec.encode(value), code) << i;
    }
  }
}

// The nearer neighbour, and half way the one with an even code; beyond the largest, infinity.
TEST(HalfTest, RoundsToNearestTiesToEven) {
  for (const Codec& codec : kCodecs) {
    for (int i = 0; i < codec.infinity; ++i) {
      const auto code = static_cast<uint16_t>(i);
      const double low = Value(code, codec.exponent, codec.mantissa);
      const double step = i + 1 < codec.infinity
                              ? Value(code + 1, codec.exponent, codec.mantissa) - low
                              : low - Value(code - 1, codec.exponent, codec.mantissa);
      const auto middle = static_cast<float>(low + step / 2);
      ASSERT_EQ(middle, low + step / 2) << i;  // an f32 has it exactly
      ASSERT_EQ(codec.encode(middle), code + (code & 1)) << i;
      ASSERT_EQ(codec.encode(std::nextafter(middle, 0.0f)), code) << i;
      ASSERT_EQ(codec.encode(std::nextafter(middle, INFINITY)), code + 1) << i;
      ASSERT_EQ(codec.encode(-std::nextafter(middle, INFINITY)), code + 1 + 0x8000) << i;
    }
  }
}

}  // namespace
}  // namespace nibble

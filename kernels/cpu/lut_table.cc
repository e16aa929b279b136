#include "kernels/cpu/lut_table.h"

#include <algorithm>
#include <cmath>

namespace nibble::cpu {
namespace {

constexpr int32_t kTwoPlanesMax = 256 * 127 + 127;

// The largest power of two that divides `value`, which is not zero.
double LowestBit(double value) {
  int exponent;
  auto mantissa = static_cast<int64_t>(std::ldexp(std::frexp(std::fabs(value), &exponent), 53));
  return std::ldexp(static_cast<double>(mantissa & -mantissa), exponent - 53);
}

}  // namespace

LutTable MakeLutTable(const std::array<float, 16>& values) {
  LutTable table;
  double largest = 0;
  double unit = HUGE_VAL;
  for (int i = 0; i < 16; ++i) {
    table.values[i] = values[i];
    largest = std::max(largest, std::fabs(static_cast<double>(values[i])));
    if (values[i] != 0) unit = std::min(unit, LowestBit(values[i]));
  }
  if (largest == 0) unit = 1;
  table.two_planes = largest / unit > 127;
  table.factor = static_cast<float>(table.two_planes ? largest / kTwoPlanesMax : unit);
  for (int i = 0; i < 16; ++i) {
    const auto fixed =
        static_cast<int32_t>(std::lround(values[i] / static_cast<double>(table.factor)));
    if (!table.two_planes) {
      table.high[i] = static_cast<uint8_t>(fixed + 128);
      continue;
    }
    const int32_t code = std::clamp(fixed, -kTwoPlanesMax, kTwoPlanesMax) + 0x8080;
    table.high[i] = static_cast<uint8_t>(code >> 8);
    table.low[i] = static_cast<uint8_t>(code & 255);
  }
  return table;
}

}  // namespace nibble::cpu

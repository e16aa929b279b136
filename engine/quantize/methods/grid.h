// The values that codes stand for, and the nearest code of a value.
//
//   symmetric, full range   s * q                  s = max|w| / (2^(b-1) - 1), or / (2^(b-1) - 1/2)
//   asymmetric              s * (q - z)            s = (high - low) / (2^b - 1), z = round(-low /
//   s) nf4, fp4                s * table[q]           s = max|w| e4m3, e5m2              s *
//   float8(q)          s = max|w| / 448, or / 57344
//
// Every range contains 0, so 0 is always exact. Rounding is to nearest, ties to even (ties of the
// tables: to the lower value, as bitsandbytes does it).
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "engine/quantize/methods/scheme.h"
#include "kernels/quant/tables.h"

namespace nibble::quantize {

using quant::kFp4Table;
using quant::kNf4Table;

struct GroupParams {
  float scale = 0;   // 0: every value is 0
  int32_t zero = 0;  // kAsymmetric only
};

// The values a scale must cover; low <= 0 <= high.
struct ValueRange {
  float low = 0, high = 0;
  void Add(float value) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  ValueRange Shrunk(float by) const { return {low * by, high * by}; }
};
ValueRange RangeOf(absl::Span<const float> values);

class Grid {
 public:
  explicit Grid(const Scheme& scheme);

  // Scales are rounded to f16 where the scheme keeps f16 ones. REQUIRES finite values.
  GroupParams ParamsFor(ValueRange range) const;
  // As the scheme's RangeChoice says; `weights` (empty: 1) weigh the squared errors.
  GroupParams Fit(absl::Span<const float> values, absl::Span<const float> weights = {}) const;

  // Codes are 0 .. 2^bits - 1 but for the symmetric grids, which have negative ones.
  int32_t Code(float value, GroupParams params) const;
  float Value(int32_t code, GroupParams params) const;
  float Nearest(float value, GroupParams params) const {
    return Value(Code(value, params), params);
  }

  int32_t min_code() const { return min_code_; }
  int32_t max_code() const { return max_code_; }

 private:
  double SquaredError(absl::Span<const float> values, absl::Span<const float> weights,
                      GroupParams params) const;

  GridKind kind_;
  bool f16_scales_;
  RangeChoice range_;
  int32_t min_code_ = 0, max_code_ = 0;
  float levels_ = 1;  // of the maximum, in scales
  const float* table_ = nullptr;
  float bounds_[15] = {};  // between neighbours of the sorted table
  uint8_t sorted_[16] = {};
};

// Shrinking factors that a search of the range tries, from 1 downwards: the least error over a
// normal distribution lies at 0.6 for 4 bits and a group of 128, at 0.35 for 2 bits.
inline constexpr int kRangeSteps = 80;
constexpr float RangeStep(int i) { return 1.0f - 0.01f * static_cast<float>(i); }

}  // namespace nibble::quantize

#include "engine/quantize/methods/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/quantize/methods/fp8_codec.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble::quantize {

namespace {

constexpr float kF16Max = 65504.0f;

// To the nearest integer, ties to even. REQUIRES |x| < 2^22.
float Round(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: no bits are left for a fraction
  return (x + kMagic) - kMagic;
}

// std::clamp for a value that may be NaN, which becomes `low`: no integer is what a NaN is cast to.
float Bounded(float x, float low, float high) { return x > low ? (x < high ? x : high) : low; }

}  // namespace

ValueRange RangeOf(absl::Span<const float> values) {
  ValueRange range;
  for (float value : values) range.Add(value);
  return range;
}

Grid::Grid(const Scheme& scheme)
    : kind_(scheme.grid), f16_scales_(scheme.f16_scales), range_(scheme.range) {
  const int32_t half = 1 << (scheme.bits - 1);
  max_code_ = 2 * half - 1;
  switch (kind_) {
    case GridKind::kSymmetric:
      min_code_ = -(half - 1);
      max_code_ = half - 1;
      levels_ = static_cast<float>(half - 1);
      break;
    case GridKind::kFullRange:
      min_code_ = -half;
      max_code_ = half - 1;
      levels_ = static_cast<float>(half) - 0.5f;
      break;
    case GridKind::kAsymmetric:
      levels_ = static_cast<float>(max_code_);
      break;
    case GridKind::kNf4:
    case GridKind::kFp4:
      table_ = kind_ == GridKind::kNf4 ? kNf4Table : kFp4Table;
      break;
    case GridKind::kE4m3:
      levels_ = kE4m3Max;
      break;
    case GridKind::kE5m2:
      levels_ = kE5m2Max;
      break;
  }
  if (table_ == nullptr) return;
  std::iota(sorted_, sorted_ + 16, uint8_t{0});
  std::stable_sort(sorted_, sorted_ + 16,
                   [this](uint8_t a, uint8_t b) { return table_[a] < table_[b]; });
  for (int i = 0; i < 15; ++i) {
    bounds_[i] = (table_[sorted_[i]] + table_[sorted_[i + 1]]) / 2;
  }
}

GroupParams Grid::ParamsFor(ValueRange range) const {
  const float width =
      kind_ == GridKind::kAsymmetric ? range.high - range.low : std::max(range.high, -range.low);
  GroupParams params;
  params.scale = width / levels_;
  if (f16_scales_) params.scale = F16ToF32(F32ToF16(std::min(params.scale, kF16Max)));
  if (kind_ == GridKind::kAsymmetric && params.scale > 0) {
    params.zero = static_cast<int32_t>(
        std::clamp(Round(std::min(-range.low / params.scale, 2 * levels_)), 0.0f, levels_));
  }
  return params;
}

GroupParams Grid::Fit(absl::Span<const float> values, absl::Span<const float> weights) const {
  const ValueRange whole = RangeOf(values);
  GroupParams best = ParamsFor(whole);
  if (range_ == RangeChoice::kWhole) return best;
  double least = SquaredError(values, weights, best);
  for (int i = 1; i < kRangeSteps; ++i) {
    const GroupParams params = ParamsFor(whole.Shrunk(RangeStep(i)));
    const double error = SquaredError(values, weights, params);
    if (error < least) {
      least = error;
      best = params;
    }
  }
  return best;
}

double Grid::SquaredError(absl::Span<const float> values, absl::Span<const float> weights,
                          GroupParams params) const {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const float error = values[i] - Nearest(values[i], params);
    sum += static_cast<double>(error) * error * (weights.empty() ? 1.0f : weights[i]);
  }
  return sum;
}

int32_t Grid::Code(float value, GroupParams params) const {
  if (!(params.scale > 0)) return kind_ == GridKind::kNf4 ? 7 : 0;
  const float x = value / params.scale;
  switch (kind_) {
    case GridKind::kSymmetric:
    case GridKind::kFullRange:
      return static_cast<int32_t>(
          Round(Bounded(x, static_cast<float>(min_code_), static_cast<float>(max_code_))));
    case GridKind::kAsymmetric: {
      const auto zero = static_cast<float>(params.zero);
      return static_cast<int32_t>(Round(Bounded(x, -zero, levels_ - zero))) + params.zero;
    }
    case GridKind::kE4m3:
      return F32ToE4m3(x);
    case GridKind::kE5m2:
      return F32ToE5m2(x);
    default: {
      int at = 0;
      for (float bound : bounds_) at += x > bound;
      return sorted_[at];
    }
  }
}

float Grid::Value(int32_t code, GroupParams params) const {
  switch (kind_) {
    case GridKind::kSymmetric:
    case GridKind::kFullRange:
      return params.scale * static_cast<float>(code);
    case GridKind::kAsymmetric:
      return params.scale * static_cast<float>(code - params.zero);
    case GridKind::kE4m3:
      return params.scale * E4m3ToF32(static_cast<uint8_t>(code));
    case GridKind::kE5m2:
      return params.scale * E5m2ToF32(static_cast<uint8_t>(code));
    default:
      return params.scale * table_[code];
  }
}

}  // namespace nibble::quantize

// The range of a tensor of activations, for scales that are fixed before serving: magnitudes seen
// in calibration are counted in a histogram, and one of four rules picks the largest that codes
// must reach.
//
//   min/max     all of it: right for bounded values; one freak value ruins it
//   percentile  99.99 % of the magnitudes: right where rare values are faults
//   mse         the least mean squared error of the rounded values
//   entropy     the least KL divergence from the values' distribution to the rounded ones' (S.
//               Migacz, "8-bit inference with TensorRT", GTC 2017): keeps the shape where most
//               values are, whatever far ones cost
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace nibble::quantize {

enum class RangeRule : uint8_t { kMinMax, kPercentile, kMse, kEntropy };

// "min-max", "percentile", "mse", "entropy". INVALID_ARGUMENT lists them.
absl::StatusOr<RangeRule> ParseRangeRule(absl::string_view name);

inline constexpr int kHistogramBins = 2048;
inline constexpr double kPercentile = 0.9999;

// Magnitudes in equal bins from 0, which widen by doubling as larger values come: memory and cost
// do not depend on how many are added. The order of adding does not matter.
class MagnitudeHistogram {
 public:
  void Add(absl::Span<const float> values);  // REQUIRES finite ones
  float max() const { return max_; }
  int64_t count() const { return count_; }
  float bin_width() const { return width_; }
  const std::vector<int64_t>& bins() const { return bins_; }

 private:
  void WidenTo(float magnitude);

  float max_ = 0;
  float width_ = 0;  // 0: nothing but zeros so far
  int64_t count_ = 0;
  std::vector<int64_t> bins_ = std::vector<int64_t>(kHistogramBins);
};

// The magnitude that the largest of 2^(bits - 1) - 1 positive codes stands for; larger values
// saturate. Within one bin. 0 for a histogram of zeros. `bits` 2 to 8.
float ChooseRange(const MagnitudeHistogram& histogram, RangeRule rule, int bits);

}  // namespace nibble::quantize

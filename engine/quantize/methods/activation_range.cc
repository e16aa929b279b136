#include "engine/quantize/methods/activation_range.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace nibble::quantize {
namespace {

// Ranges tried by mse and entropy end at a bin; every so many of them.
constexpr int kStride = 8;

int LastBin(const MagnitudeHistogram& histogram) {
  int last = kHistogramBins;
  while (last > 0 && histogram.bins()[last - 1] == 0) --last;
  return last;
}

float PercentileOf(const MagnitudeHistogram& histogram) {
  const double enough = kPercentile * static_cast<double>(histogram.count());
  double seen = 0;
  for (int i = 0; i < kHistogramBins; ++i) {
    seen += static_cast<double>(histogram.bins()[i]);
    if (seen >= enough) {
      return std::min(histogram.max(), static_cast<float>(i + 1) * histogram.bin_width());
    }
  }
  return histogram.max();
}

// Values taken as their bin's middle; `levels` steps up to `range`.
double SquaredError(const MagnitudeHistogram& histogram, float range, int levels) {
  const double step = range / levels;
  double sum = 0;
  for (int i = 0; i < kHistogramBins; ++i) {
    if (histogram.bins()[i] == 0) continue;
    const double value = (i + 0.5) * histogram.bin_width();
    const double code = std::min<double>(std::nearbyint(value / step), levels);
    sum += static_cast<double>(histogram.bins()[i]) * (value - code * step) * (value - code * step);
  }
  return sum;
}

// KL(P || Q) when bins 0 .. end - 1 are kept: P has what lies beyond in its last bin, Q spreads
// each level's values evenly over those of its bins that are not empty.
double Divergence(const MagnitudeHistogram& histogram, int end, int levels) {
  const std::vector<int64_t>& bins = histogram.bins();
  double beyond = 0, inside = 0;
  for (int i = 0; i < kHistogramBins; ++i) {
    (i < end ? inside : beyond) += static_cast<double>(bins[i]);
  }
  double divergence = 0;
  const double total = inside + beyond;
  for (int level = 0; level < levels; ++level) {
    const int first = static_cast<int>(int64_t{level} * end / levels);
    const int last = static_cast<int>((int64_t{level} + 1) * end / levels);
    double mass = 0;
    int filled = 0;
    for (int i = first; i < last; ++i) {
      mass += static_cast<double>(bins[i]);
      filled += bins[i] != 0;
    }
    for (int i = first; i < last; ++i) {
      double p = static_cast<double>(bins[i]);
      if (i == end - 1) p += beyond;
      if (p == 0) continue;
      // An empty last bin that outliers fell into is one that Q gives nothing to.
      if (bins[i] == 0) return std::numeric_limits<double>::infinity();
      const double q = mass / filled;
      divergence += p / total * std::log((p / total) / (q / inside));
    }
  }
  return divergence;
}

template <typename Loss>
float LeastLoss(const MagnitudeHistogram& histogram, int first, Loss loss) {
  const int last = LastBin(histogram);
  int best = last;
  double least = loss(last);
  for (int end = last - kStride; end >= first; end -= kStride) {
    const double here = loss(end);
    if (here < least) {
      least = here;
      best = end;
    }
  }
  return std::min(histogram.max(), static_cast<float>(best) * histogram.bin_width());
}

}  // namespace

absl::StatusOr<RangeRule> ParseRangeRule(absl::string_view name) {
  if (name == "min-max") return RangeRule::kMinMax;
  if (name == "percentile") return RangeRule::kPercentile;
  if (name == "mse") return RangeRule::kMse;
  if (name == "entropy") return RangeRule::kEntropy;
  return absl::InvalidArgumentError(absl::StrCat(
      "range rule '", name, "' is not known; there is min-max, percentile, mse and entropy"));
}

void MagnitudeHistogram::WidenTo(float magnitude) {
  if (width_ == 0) {
    // What was added so far is zeros, in bin 0 whatever its width.
    width_ = magnitude / kHistogramBins * 1.0001f;
    width_ = std::exp2(std::ceil(std::log2(width_)));  // a power of two: order does not matter
    return;
  }
  while (magnitude >= width_ * kHistogramBins) {
    for (int i = 0; i < kHistogramBins / 2; ++i) bins_[i] = bins_[2 * i] + bins_[2 * i + 1];
    std::fill(bins_.begin() + kHistogramBins / 2, bins_.end(), 0);
    width_ *= 2;
  }
}

void MagnitudeHistogram::Add(absl::Span<const float> values) {
  float largest = 0;
  for (float value : values) largest = std::max(largest, std::fabs(value));
  max_ = std::max(max_, largest);
  count_ += static_cast<int64_t>(values.size());
  if (largest > 0) WidenTo(largest);
  for (float value : values) {
    const int bin = width_ > 0 ? static_cast<int>(std::fabs(value) / width_) : 0;
    ++bins_[std::min(bin, kHistogramBins - 1)];
  }
}

float ChooseRange(const MagnitudeHistogram& histogram, RangeRule rule, int bits) {
  if (histogram.max() == 0) return 0;
  const int levels = (1 << (bits - 1)) - 1;
  switch (rule) {
    case RangeRule::kMinMax:
      return histogram.max();
    case RangeRule::kPercentile:
      return PercentileOf(histogram);
    case RangeRule::kMse:
      return LeastLoss(histogram, kStride, [&](int end) {
        return SquaredError(histogram, static_cast<float>(end) * histogram.bin_width(), levels);
      });
    case RangeRule::kEntropy:
      return LeastLoss(histogram, levels + 1,
                       [&](int end) { return Divergence(histogram, end, levels + 1); });
  }
  return histogram.max();
}

}  // namespace nibble::quantize

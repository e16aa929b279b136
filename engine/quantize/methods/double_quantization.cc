#include "engine/quantize/methods/double_quantization.h"

#include <algorithm>
#include <cmath>

#include "engine/quantize/methods/scheme.h"

namespace nibble::quantize {
namespace {

// Fractions between 0.1 and 1 are the means of neighbours of 2^i + 1 equally spaced points, under
// 10^(i - 6).
std::vector<float> MakeDynamicMap() {
  constexpr int kExponents = 7;
  std::vector<float> map = {0.0f, 1.0f};
  for (int i = 0; i < kExponents; ++i) {
    const int items = 1 << i;
    const double scale = std::pow(10.0, i - (kExponents - 1));
    for (int j = 0; j < items; ++j) {
      const auto at = [&](int n) { return static_cast<float>(0.1 + 0.9 * n / items); };
      const auto value = static_cast<float>(scale * ((at(j) + at(j + 1)) / 2.0f));
      map.push_back(value);
      map.push_back(-value);
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

uint8_t NearestIn(const std::vector<float>& map, float value) {
  const size_t above = std::lower_bound(map.begin(), map.end(), value) - map.begin();
  if (above == 0) return 0;
  if (above == map.size()) return static_cast<uint8_t>(map.size() - 1);
  const bool up = value > (map[above - 1] + map[above]) / 2;
  return static_cast<uint8_t>(up ? above : above - 1);
}

}  // namespace

const std::vector<float>& DynamicMap() {
  static const std::vector<float> map = MakeDynamicMap();
  return map;
}

NestedScales QuantizeScales(absl::Span<const float> scales) {
  NestedScales result;
  double sum = 0;
  for (float scale : scales) sum += scale;
  if (!scales.empty()) result.mean = static_cast<float>(sum / static_cast<double>(scales.size()));
  for (size_t first = 0; first < scales.size(); first += kNestedBlock) {
    const absl::Span<const float> block = scales.subspan(first, kNestedBlock);
    float largest = 0;
    for (float scale : block) largest = std::max(largest, std::fabs(scale - result.mean));
    result.nested.push_back(largest);
    for (float scale : block) {
      const float x = largest > 0 ? (scale - result.mean) / largest : 0.0f;
      result.codes.push_back(NearestIn(DynamicMap(), x));
    }
  }
  return result;
}

std::vector<float> RestoreScales(const NestedScales& scales) {
  std::vector<float> restored;
  restored.reserve(scales.codes.size());
  for (size_t i = 0; i < scales.codes.size(); ++i) {
    restored.push_back(DynamicMap()[scales.codes[i]] * scales.nested[i / kNestedBlock] +
                       scales.mean);
  }
  return restored;
}

}  // namespace nibble::quantize

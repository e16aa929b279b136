// Double quantization: the block maxima of a 4-bit table format, quantized once more (arXiv
// 2305.14314). The scheme is bitsandbytes': maxima less their mean, in blocks of 256, each over its
// own absmax, to the nearest of the 256 values of an 8-bit "dynamic" map (arXiv 1511.04561) - not
// to FP8, which the paper says.
//   restored[i] = map[codes[i]] * nested[i / 256] + mean
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace nibble::quantize {

// Sorted, -0.993 .. 1: a sign, a decimal exponent in unary, and a linear fraction. Bit for bit what
// bitsandbytes' create_dynamic_map() gives.
const std::vector<float>& DynamicMap();

struct NestedScales {
  std::vector<uint8_t> codes;
  std::vector<float> nested;  // [ceil(codes / kNestedBlock)]
  float mean = 0;
};
NestedScales QuantizeScales(absl::Span<const float> scales);
std::vector<float> RestoreScales(const NestedScales& scales);

}  // namespace nibble::quantize

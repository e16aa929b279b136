#include "engine/quantize/methods/smooth_quant.h"

#include <cmath>

namespace nibble::quantize {

VectorF SmoothScales(absl::Span<const MatrixF* const> weights, const VectorF& input_max,
                     float alpha) {
  VectorF weight_max = VectorF::Zero(input_max.size());
  for (const MatrixF* weight : weights) {
    weight_max = weight_max.cwiseMax(weight->cwiseAbs().colwise().maxCoeff().transpose());
  }
  VectorF scales = VectorF::Ones(input_max.size());
  for (int64_t j = 0; j < scales.size(); ++j) {
    if (!(input_max[j] > 0) || !(weight_max[j] > 0)) continue;
    scales[j] = std::pow(input_max[j], alpha) / std::pow(weight_max[j], 1 - alpha);
  }
  return scales;
}

}  // namespace nibble::quantize

#include "engine/quantize/methods/awq.h"

#include <algorithm>
#include <cmath>

#include "engine/quantize/methods/gptq.h"
#include "engine/quantize/methods/round_to_nearest.h"

namespace nibble::quantize {
namespace {

constexpr float kLeastActivity = 1e-4f;  // of a channel: one that never fires is not divided away

VectorF ScalesAt(const VectorF& mean_abs, float alpha) {
  VectorF scales = mean_abs.array().max(kLeastActivity).pow(alpha);
  const float middle = std::sqrt(scales.maxCoeff() * scales.minCoeff());
  return scales / middle;
}

double ErrorAt(absl::Span<const MatrixF* const> weights, const MatrixF& hessian,
               const VectorF& scales, const Scheme& scheme, int threads) {
  double error = 0;
  for (const MatrixF* weight : weights) {
    MatrixF scaled = *weight;
    ScaleColumns(scaled, scales);
    MatrixF values = Dequantize(RoundToNearest(scaled, scheme, threads));
    ScaleColumns(values, scales.cwiseInverse());
    error += OutputError(*weight, values, hessian);
  }
  return error;
}

}  // namespace

void ScaleColumns(MatrixF& weight, const VectorF& scales) {
  weight.array().rowwise() *= scales.transpose().array();
}

void DivideRows(MatrixF& weight, const VectorF& scales) {
  weight.array().colwise() /= scales.array();
}

MatrixF DivideHessian(const MatrixF& hessian, const VectorF& scales) {
  MatrixF divided = hessian;
  ScaleColumns(divided, scales.cwiseInverse());
  DivideRows(divided, scales);
  return divided;
}

AwqScales SearchAwqScales(absl::Span<const MatrixF* const> weights, const MatrixF& hessian,
                          const VectorF& mean_abs, const Scheme& scheme, int threads) {
  AwqScales best;
  best.scales = VectorF::Ones(hessian.cols());
  best.rounding = best.error = ErrorAt(weights, hessian, best.scales, scheme, threads);
  for (int i = 1; i < kAwqPoints; ++i) {
    const float alpha = static_cast<float>(i) / kAwqPoints;
    const VectorF scales = ScalesAt(mean_abs, alpha);
    const double error = ErrorAt(weights, hessian, scales, scheme, threads);
    if (error < best.error) {
      best.scales = scales;
      best.alpha = alpha;
      best.error = error;
    }
  }
  return best;
}

}  // namespace nibble::quantize

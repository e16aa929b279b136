// AWQ (arXiv 2306.00978): input channels that are active on average get finer steps. Column j of
// the weights is multiplied by s_j before rounding, and what produces the input divides by it:
//   y = x W^T = (x / s) (W s)^T,   s_j = mean|x_j|^alpha, over its geometric middle
// alpha is the best of 20 points by the mean squared error of the outputs, which H = X^T X / n says
// without the inputs themselves: trace(D H D^T).
#pragma once

#include "absl/types/span.h"
#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/scheme.h"

namespace nibble::quantize {

inline constexpr int kAwqPoints = 20;

struct AwqScales {
  VectorF scales;       // [cols], > 0; all 1 where nothing is gained
  float alpha = 0;      // 0: no scaling
  double error = 0;     // of the outputs, with them
  double rounding = 0;  // without
};

// For the linears `weights` that share an input. `mean_abs` [cols] of the input. Cost: kAwqPoints
// roundings and products with H. REQUIRES weights of cols columns, CheckShape.
AwqScales SearchAwqScales(absl::Span<const MatrixF* const> weights, const MatrixF& hessian,
                          const VectorF& mean_abs, const Scheme& scheme, int threads);

// weight(:, j) *= scales(j); its input's producer must divide by them: a norm's weight, or the rows
// of a linear.
void ScaleColumns(MatrixF& weight, const VectorF& scales);
void DivideRows(MatrixF& weight, const VectorF& scales);
// The Hessian of the divided input.
MatrixF DivideHessian(const MatrixF& hessian, const VectorF& scales);

}  // namespace nibble::quantize

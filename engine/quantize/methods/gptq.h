// GPTQ (arXiv 2210.17323): columns are rounded one after the other, and what each one's rounding
// does to the outputs is made good in the columns after it, by the inverse of the Hessian
// H = X^T X of the layer's inputs.
//
//   for column j:  q = round(w_j),  e = (w_j - q) / U_jj,  w_k -= e U_jk  for k > j
//   U: the upper Cholesky factor of (H + damping mean(diag H) I)^-1
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/quantized_weight.h"
#include "engine/quantize/methods/scheme.h"

namespace nibble::quantize {

// The order of the columns, and how groups follow it.
enum class ColumnOrder : uint8_t {
  kAsStored,
  kByActivation,        // most active first (largest H_jj), groups of stored neighbours, whose
                        // scales are set before ("static groups")
  kByActivationGIndex,  // groups are of neighbours in the new order: needs a g_idx in the
                        // checkpoint
};

struct GptqOptions {
  double damping = 0.01;  // of the mean of H's diagonal
  ColumnOrder order = ColumnOrder::kAsStored;
  // Scales set before (learned_clipping.h), of the same scheme and shape; null: from the values as
  // they are when a group's first column is reached. Not with kByActivationGIndex.
  const QuantizedWeight* tiles = nullptr;
  int threads = 1;
};

// `hessian` [cols, cols], of any scale. Inputs that are always 0 (H_jj = 0) get weight 0, as they
// make no difference. INVALID_ARGUMENT when the scheme has scales over several rows (rows are
// independent here), or H is not finite or not positive definite even when damped; DATA_LOSS when
// what a column's rounding leaves to the others is beyond f32: a weight of 1e38 does that. Cost:
// cols^3 once, rows cols^2 for the updates; memory: the weight twice, H three times. REQUIRES
// CheckShape.
absl::StatusOr<QuantizedWeight> QuantizeGptq(const MatrixF& weight, const MatrixF& hessian,
                                             const Scheme& scheme, const GptqOptions& options);

// What an error of the weights costs in the outputs: trace(D H D^T), D = weight - values. With
// H = X^T X / n it is the mean squared error of the layer's output, summed over its rows.
double OutputError(const MatrixF& weight, const MatrixF& values, const MatrixF& hessian);

}  // namespace nibble::quantize

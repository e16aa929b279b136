// Weights that are kept in codes (kCodes) in a pass of a linear: the rows of x are quantized once
// for each kind of codes, the GEMM multiplies codes with codes, and one launch scales what it made
// with all weights of the call.
//
//   launches  normalizes and quantizes, 1; q, k, v: a GEMM each, then 1; gate, up: the same with
//             the activation. What nothing normalizes (o, down) is quantized by a launch of its
//             own: the op before it has written 16-bit rows, whoever reads them.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stored_matrix.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// For one pass of at most `most_rows` rows.
class CodesLinear {
 public:
  using Weights = absl::Span<const PackedMatrix* const>;  // CudaMatrix each

  CodesLinear(Device& device, Gemm& gemm, Workspace& workspace, int32_t most_rows)
      : device_(device), gemm_(gemm), workspace_(workspace), most_rows_(most_rows) {}

  // Runs the norm, and where some weight is kCodes quantizes what it makes within the same launch.
  // norm.out is then written only if another weight, or another kind of codes, reads it.
  void Normalize(RmsNormCall norm, Weights weights);
  // x in the codes of every weight that is kCodes, those that are there already left out.
  void Quantize(const Tensor& x, Weights weights);

  // Whether one MultiplyAll can do all of them: all are kCodes, and their products have room.
  bool Fits(Weights weights) const;
  // y = what LinearParams says of all weights, which Quantize has seen. REQUIRES Fits.
  void MultiplyAll(const LinearParams& params, const Tensor& y);
  // y = x W^T + bias, or y += that.
  void Multiply(const StoredMatrix& weight, const Tensor& y, const float* bias, bool accumulate);

 private:
  QuantizeRowsCall& Start(CodesShape::Kind kind, int32_t rows, int32_t cols);
  GemmSums Sums(const StoredMatrix& weight);

  Device& device_;
  Gemm& gemm_;
  Workspace& workspace_;
  const int32_t most_rows_;
  QuantizeRowsCall quantized_[3];  // x as each RowCodes; without out: not yet
};

}  // namespace nibble::cuda

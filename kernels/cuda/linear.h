// LinearParams (kernels/ops.h) on the device: which kernel multiplies with which weight, in passes
// of at most 64 rows of x.
//
//   kTiled      tiled_linear: the codes are read once a pass
//   kCodes      rows of x are quantized, once a pass, and the GEMM multiplies codes with codes
//   all others  the GEMM multiplies; weights of another type than the activations are converted
//               before it, a slab of rows at a time, in the workspace
//
// A row's result is the same bits in any pass, so batches of any size agree.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stored_matrix.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

// A weight of this backend: what PackedMatrix pointers of its ops point to.
class CudaMatrix : public PackedMatrix {
 public:
  int32_t rows() const override { return stored_.rows; }
  int32_t cols() const override { return stored_.cols; }
  int64_t size_bytes() const override { return StoredBytes(stored_); }
  const StoredMatrix& stored() const { return stored_; }

 protected:
  explicit CudaMatrix(const StoredMatrix& stored) : stored_(stored) {}
  StoredMatrix stored_;
};

// RESOURCE_EXHAUSTED when a linear of 64 rows with this weight needs more than a workspace of that
// size; at load, so that no step can meet it.
absl::Status CheckLinear(const StoredMatrix& weight, int64_t workspace_bytes);

// Asynchronous; errors are kept by the device under "linear".
void RunLinear(Device& device, Gemm& gemm, Workspace& workspace, const LinearParams& params);

}  // namespace nibble::cuda

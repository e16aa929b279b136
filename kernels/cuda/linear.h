// LinearParams (kernels/ops.h) on the device: which kernel multiplies with which weight, in passes
// of at most 64 rows of x, or 256 where all weights are in tiles.
//
//   kTiled      tiled_linear: the codes come from memory once a pass
//   kCodes      rows of x are quantized, once a pass, and the GEMM multiplies codes with codes
//   all others  the GEMM multiplies; weights of another type than the activations are converted
//               before it, a slab of rows at a time, in the workspace
//
// A row's result is the same bits in any pass, so batches of any size agree.
//
// Unless that is given up (`wide_rows`): then a call with more than kPassRows rows multiplies as
// many as the workspace holds at once, all weights but kCodes as slabs of 16-bit rows, through the
// GEMM. Weights are dequantized, and read, once for all those rows. A row's sums then have another
// order, and its weights one rounding more (of a scale times a code), than alone.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/stored_matrix.h"
#include "kernels/cuda/workspace.h"
#include "kernels/ops.h"

namespace nibble::cuda {

inline constexpr int32_t kPassRows = kGemmRows;
inline constexpr int32_t kMostTiledPassRows = 256;  // through weights of which all are in tiles

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

// Rows that a call with wide rows multiplies at once: a multiple of kPassRows, at most
// kMostGemmRows; kPassRows where the workspace has no room for more, and the call runs as ever.
int32_t WidePassRows(const LinearParams& params, int64_t workspace_bytes);

// Rows that a call multiplies at once without: kPassRows, or where all of its weights are in tiles
// up to kMostTiledPassRows, as the workspace has room for.
int32_t TiledPassRows(const LinearParams& params, int64_t workspace_bytes);

// Asynchronous; errors are kept by the device under "linear".
void RunLinear(Device& device, Gemm& gemm, Workspace& workspace, const LinearParams& params,
               bool wide_rows);

}  // namespace nibble::cuda

// A norm and the quantization of what it makes, as one launch: what LaunchRmsNorm (row_ops.h) and
// then LaunchQuantizeRows (quantize_rows.h) would write, bit by bit. It saves a launch, and the
// normalized rows their way to memory and back where nobody else reads them.
//
// Memory-bound: each row comes from memory once, and up to twice more from L1 with the norm's
// weights: the largest magnitude must be known before the first code. A block a row. Needs sm_80.
// Has not run on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/row_ops.h"

namespace nibble::cuda {

// norm.out may be null: no 16-bit rows are wanted. Of `codes` dtype, rows, cols, x and x_stride are
// the norm's, and not looked at.
// Asynchronous. cudaErrorInvalidValue for what either launch refuses; else the launch's error.
cudaError_t LaunchNormCodes(const RmsNormCall& norm, const QuantizeRowsCall& codes,
                            cudaStream_t stream);

}  // namespace nibble::cuda

// The ops on one row at a time: normalization and the gated activation. 16-bit rows, f32
// arithmetic, rounded once. A block a row, so that a row's bits never depend on its neighbours;
// sums in an order fixed by the row's length.
//
// Memory-bound: each asks for its operands once (the norm for its row twice, the second time from
// L1) and writes its result. REQUIRES rows of multiples of 8 elements, 16-byte aligned. Needs
// sm_80. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

// As RmsNormParams in kernels/ops.h: out = x / sqrt(mean(x^2) + epsilon) * weight; with `residual`,
// residual += x first, and its rounded sum is what is normalized. out may be x.
struct RmsNormCall {
  DType dtype = DType::kBf16;  // of all rows; or kF16
  int32_t rows = 0, cols = 0;
  const void* x = nullptr;  // [rows, cols], rows x_stride elements apart
  int32_t x_stride = 0;
  void* residual = nullptr;  // the same, or null
  int32_t residual_stride = 0;
  const float* weight = nullptr;  // [cols]
  float epsilon = 0;
  void* out = nullptr;
  int32_t out_stride = 0;
};

// As GatedActivationParams: out[r][i] = silu(gate_up[r][i]) * gate_up[r][cols + i].
struct GatedCall {
  DType dtype = DType::kBf16;
  int32_t rows = 0, cols = 0;     // of out
  const void* gate_up = nullptr;  // [rows, 2 * cols]
  int32_t gate_up_stride = 0;
  void* out = nullptr;
  int32_t out_stride = 0;
};

// Asynchronous. cudaErrorInvalidValue for what REQUIRES rules out and for another dtype; else the
// launch's error.
cudaError_t LaunchRmsNorm(const RmsNormCall& call, cudaStream_t stream);
cudaError_t LaunchGated(const GatedCall& call, cudaStream_t stream);

}  // namespace nibble::cuda

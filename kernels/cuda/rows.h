// What moves rows about: the embedding, slabs of a weight as plain 16-bit rows, rows picked out of
// a step, and what a GEMM's sums become. No arithmetic across elements, so a row never depends on
// its neighbours.
//
// Memory-bound; each reads and writes its operands once. Codes of tiles are read one by one:
// as a row of an embedding that is nothing.
// Needs sm_80. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/stored_matrix.h"
#include "kernels/tensor.h"

namespace nibble::cuda {

// out[r] = row ids[r] of the matrix, or first + r without ids; rounded once from f32. An id below 0
// stands for drawn[-1 - ids[r]].
// REQUIRES rows within the matrix; 16-byte aligned out, out_stride a multiple of 8.
struct DequantizeCall {
  StoredMatrix matrix;
  const int32_t* ids = nullptr;  // [rows]
  const int32_t* drawn = nullptr;
  int32_t first = 0;
  int32_t rows = 0;
  DType dtype = DType::kBf16;  // of out; or kF16
  void* out = nullptr;         // [rows, matrix.cols]
  int32_t out_stride = 0;
};

// out[r] = x[ids[r]]: 16-bit rows of a multiple of 8 columns, aligned as above.
struct GatherCall {
  const void* x = nullptr;
  int32_t x_stride = 0;
  const int32_t* ids = nullptr;  // [rows]
  int32_t rows = 0, cols = 0;
  void* out = nullptr;
  int32_t out_stride = 0;
};

// y[r][i] = sums[r][i] * row_scales[r] * col_scales[i] + bias[i], or y[r][i] += that; rounded once.
struct FinishCall {
  DType dtype = DType::kBf16;  // of y; or kF16, kF32
  bool int32_sums = false;     // else f32
  const void* sums = nullptr;  // [rows, cols]
  int32_t sums_stride = 0;
  const float* row_scales = nullptr;  // [rows] and [cols], or null: both or none
  const float* col_scales = nullptr;
  const float* bias = nullptr;  // [cols] or null
  bool accumulate = false;
  int32_t rows = 0, cols = 0;
  void* y = nullptr;
  int32_t y_stride = 0;
};

// Asynchronous. cudaErrorInvalidValue for what REQUIRES rules out, another dtype and empty calls;
// else the launch's error.
cudaError_t LaunchDequantize(const DequantizeCall& call, cudaStream_t stream);
cudaError_t LaunchGather(const GatherCall& call, cudaStream_t stream);
cudaError_t LaunchFinish(const FinishCall& call, cudaStream_t stream);

}  // namespace nibble::cuda

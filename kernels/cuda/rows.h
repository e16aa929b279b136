// What moves rows about: the embedding, slabs of a weight as plain 16-bit rows, rows picked out of
// a step, and what a GEMM's sums become. No arithmetic across elements, so a row never depends on
// its neighbours.
//
// Memory-bound; each reads and writes its operands once. Codes of tiles are read one by one: as a
// row of an embedding that is nothing. Slabs of whole tiles go through dequantize_tiles.h.
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

// What the GEMM made with one weight: sums[r][i] * row_scales[r] * col_scales[i].
struct GemmSums {
  const void* sums = nullptr;  // [rows, cols]; f32, or int32
  int32_t stride = 0, cols = 0;
  bool is_int32 = false;
  const float* row_scales = nullptr;  // [rows] and [cols], or null: both or none
  const float* col_scales = nullptr;
};

// y[r] = the sums of all parts side by side + bias, or y[r] += that; rounded once. With `gated`
// there are two parts of as many columns, and y[r] is what LaunchGated (row_ops.h) makes of them,
// each rounded before as well: the same bits. REQUIRES then neither bias nor accumulate.
struct FinishCall {
  static constexpr int32_t kMostParts = 3;  // q, k and v

  DType dtype = DType::kBf16;  // of y; or kF16, kF32 (not gated)
  GemmSums parts[kMostParts];
  int32_t num_parts = 1;
  bool gated = false;
  const float* bias = nullptr;  // [all columns] or null
  bool accumulate = false;
  int32_t rows = 0;
  void* y = nullptr;
  int32_t y_stride = 0;
};
// Of y.
constexpr int32_t FinishedCols(const FinishCall& call) {
  if (call.gated || call.num_parts == 1) return call.parts[0].cols;
  return call.parts[0].cols + call.parts[1].cols + (call.num_parts == 3 ? call.parts[2].cols : 0);
}

// Asynchronous. cudaErrorInvalidValue for what REQUIRES rules out, another dtype and empty calls;
// else the launch's error.
cudaError_t LaunchDequantize(const DequantizeCall& call, cudaStream_t stream);
cudaError_t LaunchGather(const GatherCall& call, cudaStream_t stream);
cudaError_t LaunchFinish(const FinishCall& call, cudaStream_t stream);

}  // namespace nibble::cuda

// Rows of 16-bit floats as 8-bit codes with f32 scales, made anew for every row (token): what
// multiplies with 8-bit weights where the GEMM takes both sides in 8 bits (gemm.h).
//
//   int8         scale = the row's largest magnitude / 127
//   e4m3         scale = the row's largest magnitude / 448
//   e4m3 blocks  the same of each 128 columns
//
// A code is the nearest to value / scale, ties to even; rows whose largest magnitude is below 1e-30
// are zeros. A NaN or an infinity makes its scale NaN, and so its row's results: it is never
// hidden. A block a row, so a row never depends on its neighbours.
// Memory-bound: reads each row twice (the second time from L1), writes half of it.
// Needs sm_80: codes are made without FP8 units. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

inline constexpr int32_t kScaleBlock = 128;  // columns, and rows of a weight, of a block's scale

enum class RowCodes : uint8_t { kInt8, kE4m3, kE4m3Blocks };

struct QuantizeRowsCall {
  DType dtype = DType::kBf16;  // of x; or kF16
  RowCodes codes = RowCodes::kInt8;
  int32_t rows = 0, cols = 0;  // cols a multiple of 16, of 128 for blocks
  int32_t zero_rows = 0;       // of blocks only: rows of zeros behind them, which have no x
  const void* x = nullptr;     // [rows, cols], 16-byte aligned, rows x_stride elements apart (of 8)
  int32_t x_stride = 0;
  uint8_t* out = nullptr;   // [rows + zero_rows, cols] without gaps, 16-byte aligned
  float* scales = nullptr;  // [rows]; of blocks [cols / 128, rows + zero_rows]
};

// Asynchronous. cudaErrorInvalidValue for what the comments above rule out and another dtype; else
// the launch's error.
cudaError_t LaunchQuantizeRows(const QuantizeRowsCall& call, cudaStream_t stream);

}  // namespace nibble::cuda

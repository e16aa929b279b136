// y = x W^T for weights that lie as plain 16-bit rows: the one use of cuBLASLt, behind an interface
// so that the emulator can have a reference of its own. It serves weights of floats, by slabs that
// rows.h converts where their type is not that of the activations.
//
// And for 8-bit weights whose activations are quantized too (quantize_rows.h): int8 by int8 into
// int32, fp8 by e4m3 into f32. Sums come unscaled, and LaunchFinish (rows.h) applies a scale a row
// of x and one a row of W: cuBLASLt's own vectors of scales (OUTER_VEC) exist on sm_90 alone, its
// int8 has none, and f32 or int32 sums pass through that kernel anyway. Only scales of blocks
// within a sum are the GEMM's (VEC128 and BLK128x128, sm_90; their order is PyTorch's, and an H200
// takes it so).
//
// Batch invariance: for each shape of W one algorithm is chosen, for kGemmRows rows of x and
// without splitting K, and taken for every number of rows up to that: a row of y then sums in the
// order of that algorithm alone. An H200 with cuBLASLt 13.1 kept to this in every shape of the
// tests. More rows have algorithms of their own (AlgorithmRows), and sums in orders of their own.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cuda/codes_shape.h"
#include "kernels/tensor.h"

namespace nibble::cuda {

inline constexpr int32_t kGemmRows = 64;        // of x, for which one algorithm is taken
inline constexpr int32_t kMostGemmRows = 2048;  // of x, at most

// The number of rows that an algorithm is chosen for: kGemmRows, or the next power of two.
constexpr int32_t AlgorithmRows(int32_t rows) {
  int32_t chosen_for = kGemmRows;
  while (chosen_for < rows) chosen_for *= 2;
  return chosen_for;
}

struct GemmCall {
  DType dtype = DType::kBf16;  // of x and w; or kF16
  const void* x = nullptr;     // [rows, cols], rows x_stride elements apart, 16-byte aligned
  int32_t x_stride = 0;
  const void* w = nullptr;  // [out, cols], without gaps, 16-byte aligned
  float* y = nullptr;  // [rows, out], overwritten, rows y_stride elements apart, 16-byte aligned
  int32_t y_stride = 0;
  int32_t rows = 0, cols = 0, out = 0;  // cols a multiple of 8; 1 <= rows <= kMostGemmRows
};

struct CodesCall {
  CodesShape shape;
  const uint8_t* x = nullptr;       // [rows, cols] without gaps, 16-byte aligned; int8, or e4m3
  const uint8_t* w = nullptr;       // [out, cols], the same
  const float* x_scales = nullptr;  // of blocks: [cols / 128, rows], 16-byte aligned
  const float* w_scales = nullptr;  // of blocks: [BlocksOf(out), BlockScaleStride(cols)]
  void* y = nullptr;                // [rows, out] without gaps, int32 for int8, else f32
  int32_t rows = 0;                 // 1 .. kMostGemmRows; a multiple of 4 for blocks (RowsFor)
};

class Gemm {
 public:
  virtual ~Gemm() = default;
  // Asynchronous; f32 accumulators. May choose an algorithm, on the host, the first time it meets a
  // shape of W with so many rows (AlgorithmRows).
  virtual cudaError_t Run(const GemmCall& call, cudaStream_t stream) = 0;
  // Whether RunCodes can multiply with a W of that shape on this device: its units, and an
  // algorithm. Asked at load, from any thread whose current device it is; the algorithm is kept.
  virtual bool Multiplies(const CodesShape& shape) = 0;
  // Asynchronous. REQUIRES Multiplies(call.shape).
  virtual cudaError_t RunCodes(const CodesCall& call, cudaStream_t stream) = 0;
  virtual std::string name() const = 0;  // "cuBLASLt 13.0.2"
};

// For a device of that compute capability, the current one. FAILED_PRECONDITION names the library
// that was not found, or what it lacks.
absl::StatusOr<std::unique_ptr<Gemm>> MakeGemm(int32_t major, int32_t minor);

}  // namespace nibble::cuda

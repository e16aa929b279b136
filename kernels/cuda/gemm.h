// y = x W^T for weights that lie as plain 16-bit rows: the one use of cuBLASLt, behind an interface
// so that the emulator can have a reference of its own. It serves weights without a kernel that
// reads their codes, from slabs that rows.h dequantizes.
//
// Batch invariance: for each shape of W one algorithm is chosen, for kGemmRows rows of x and
// without splitting K, and taken for every number of rows: a row of y then sums in the order of
// that algorithm alone. That cuBLASLt keeps to this is to be shown on a GPU; the reference does.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace nibble::cuda {

inline constexpr int32_t kGemmRows = 64;  // of x, at most

struct GemmCall {
  DType dtype = DType::kBf16;  // of x and w; or kF16
  const void* x = nullptr;     // [rows, cols], rows x_stride elements apart, 16-byte aligned
  int32_t x_stride = 0;
  const void* w = nullptr;  // [out, cols], without gaps, 16-byte aligned
  float* y = nullptr;       // [rows, out], overwritten, rows y_stride elements apart
  int32_t y_stride = 0;
  int32_t rows = 0, cols = 0, out = 0;  // cols a multiple of 8; 1 <= rows <= kGemmRows
};

class Gemm {
 public:
  virtual ~Gemm() = default;
  // Asynchronous; f32 accumulators. May choose an algorithm, on the host, the first time it meets a
  // shape of W.
  virtual cudaError_t Run(const GemmCall& call, cudaStream_t stream) = 0;
  virtual std::string name() const = 0;  // "cuBLASLt 13.0.2"
};

// FAILED_PRECONDITION names the library that was not found, or what it lacks.
absl::StatusOr<std::unique_ptr<Gemm>> MakeGemm();

}  // namespace nibble::cuda

// The products of gemm.h as functions of one instruction set each. All matrices are row-major,
// without padding. No Eigen here: the files behind these rename it.
#pragma once

#include <cstdint>

namespace nibble::quantize {

struct GemmKernels {
  // y [tokens, out] = x [tokens, in] weight [out, in]^T
  void (*multiply_transposed)(const float* x, int64_t tokens, int64_t in, const float* weight,
                              int64_t out, float* y);
  // products [cols, cols], rows first .. last - 1 from column `first` on, += those of X^T X.
  void (*add_gram)(const float* x, int64_t tokens, int64_t cols, int64_t first, int64_t last,
                   float* products);
};
extern const GemmKernels kGemmBaseline;
#if defined(__x86_64__)
extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvx512;
#endif

}  // namespace nibble::quantize

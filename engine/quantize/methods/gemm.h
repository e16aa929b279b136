// The two products that calibration spends its time on, by Eigen, compiled for each instruction set
// and chosen at run time (the rest of Eigen is compiled for the oldest x86-64: a quarter of the
// speed on AVX2, an eighth on AVX-512). Sums round differently from one set to the next.
#pragma once

#include <cstdint>

#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/gemm_kernels.h"

namespace nibble::quantize {

// x W^T: x [tokens, in], weight [out, in] -> [tokens, out]. On the calling thread.
MatrixF MultiplyTransposed(const MatrixF& x, const MatrixF& weight);

// Rows first .. last - 1 of X^T X, from column `first` on, added to `products` [cols, cols].
void AddGram(const MatrixF& x, int64_t first, int64_t last, MatrixF& products);

const GemmKernels& BestGemm();  // that this machine can run

}  // namespace nibble::quantize

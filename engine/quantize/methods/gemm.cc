#include "engine/quantize/methods/gemm.h"

#include "kernels/check.h"

namespace nibble::quantize {

const GemmKernels& BestGemm() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return kGemmAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kGemmAvx2;
#endif
  return kGemmBaseline;
}

MatrixF MultiplyTransposed(const MatrixF& x, const MatrixF& weight) {
  NIBBLE_CHECK(x.cols() == weight.cols());
  MatrixF y(x.rows(), weight.rows());
  BestGemm().multiply_transposed(x.data(), x.rows(), x.cols(), weight.data(), weight.rows(),
                                 y.data());
  return y;
}

void AddGram(const MatrixF& x, int64_t first, int64_t last, MatrixF& products) {
  NIBBLE_CHECK(products.rows() == x.cols() && products.cols() == x.cols());
  BestGemm().add_gram(x.data(), x.rows(), x.cols(), first, last, products.data());
}

}  // namespace nibble::quantize

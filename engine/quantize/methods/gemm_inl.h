// The body of gemm_*.cc. Each of them renames Eigen's namespace before it includes this, so that
// what the compiler instantiates for one instruction set is never linked for another.
#include <Eigen/Core>
#include <cstdint>

#include "engine/quantize/methods/gemm_kernels.h"

namespace nibble::quantize {
namespace {

using Dense = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void Multiply(const float* x, int64_t tokens, int64_t in, const float* weight, int64_t out,
              float* y) {
  Eigen::Map<Dense>(y, tokens, out).noalias() =
      Eigen::Map<const Dense>(x, tokens, in) * Eigen::Map<const Dense>(weight, out, in).transpose();
}

void Gram(const float* x, int64_t tokens, int64_t cols, int64_t first, int64_t last,
          float* products) {
  const Eigen::Map<const Dense> inputs(x, tokens, cols);
  Eigen::Map<Dense> sums(products, cols, cols);
  sums.block(first, first, last - first, cols - first).noalias() +=
      inputs.middleCols(first, last - first).transpose() * inputs.rightCols(cols - first);
}

}  // namespace
}  // namespace nibble::quantize

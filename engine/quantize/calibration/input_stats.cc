#include "engine/quantize/calibration/input_stats.h"

#include <algorithm>

#include "engine/quantize/methods/gemm.h"
#include "engine/quantize/methods/parallel.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

constexpr int64_t kRowsAtOnce = 64;  // of the products: what one thread adds to

}  // namespace

InputStats::InputStats(int32_t cols)
    : products_(MatrixF::Zero(cols, cols)),
      sum_abs_(VectorF::Zero(cols)),
      max_abs_(VectorF::Zero(cols)) {}

void InputStats::Add(absl::Span<const MatrixF* const> inputs, int threads) {
  const int64_t cols = products_.cols();
  ParallelRanges(cols, kRowsAtOnce, threads, [&](int64_t first, int64_t last) {
    for (const MatrixF* x : inputs) AddGram(*x, first, last, products_);
  });
  for (const MatrixF* x : inputs) {
    NIBBLE_CHECK(x->cols() == cols);
    tokens_ += x->rows();
    sum_abs_ += x->cwiseAbs().colwise().sum().transpose();
    max_abs_ = max_abs_.cwiseMax(x->cwiseAbs().colwise().maxCoeff().transpose());
    magnitudes_.Add(absl::MakeConstSpan(x->data(), x->size()));
  }
}

MatrixF InputStats::Hessian() const {
  const float scale = 1 / static_cast<float>(std::max<int64_t>(tokens_, 1));
  MatrixF hessian = products_.triangularView<Eigen::Upper>();
  hessian.triangularView<Eigen::StrictlyLower>() = hessian.transpose();
  hessian *= scale;
  return hessian;
}

VectorF InputStats::MeanAbs() const {
  return sum_abs_ / static_cast<float>(std::max<int64_t>(tokens_, 1));
}

}  // namespace nibble::quantize

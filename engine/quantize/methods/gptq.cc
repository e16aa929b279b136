#include "engine/quantize/methods/gptq.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gemm.h"
#include "engine/quantize/methods/grid.h"
#include "engine/quantize/methods/parallel.h"
#include "engine/quantize/methods/round_to_nearest.h"

namespace nibble::quantize {
namespace {

// Columns whose updates reach the rest of the row together, as one product.
constexpr int32_t kColumnsAtOnce = 128;
// Rows are independent; as many as keep that product efficient.
constexpr int64_t kRowsAtOnce = 32;

std::vector<int32_t> OrderOf(const MatrixF& hessian, ColumnOrder order) {
  std::vector<int32_t> columns(hessian.cols());
  std::iota(columns.begin(), columns.end(), 0);
  if (order != ColumnOrder::kAsStored) {
    std::stable_sort(columns.begin(), columns.end(),
                     [&](int32_t a, int32_t b) { return hessian(a, a) > hessian(b, b); });
  }
  return columns;
}

// U of the formula, of the permuted H. In f64: the inverse of an ill-conditioned H loses f32's
// digits.
absl::StatusOr<MatrixF> InverseFactor(const MatrixF& hessian, const std::vector<int32_t>& columns,
                                      double damping) {
  // Eigen's factorization takes a NaN for a success.
  if (!hessian.allFinite()) {
    return absl::InvalidArgumentError("the Hessian holds a number that is not finite");
  }
  const int64_t n = hessian.cols();
  Eigen::MatrixXd permuted(n, n);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < n; ++i) permuted(i, j) = hessian(columns[i], columns[j]);
  }
  for (int64_t i = 0; i < n; ++i) {
    if (!(permuted(i, i) > 0)) permuted(i, i) = 1;
  }
  permuted.diagonal().array() += damping * permuted.diagonal().mean();
  // In place: of n x n doubles there are two, however many steps (Eigen would copy at each).
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factor(permuted);
  if (factor.info() != Eigen::Success) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the Hessian is not positive definite with damping ", damping, "; raise the damping"));
  }
  Eigen::MatrixXd inverse = Eigen::MatrixXd::Identity(n, n);
  factor.solveInPlace(inverse);
  permuted.resize(0, 0);
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>, Eigen::Upper> upper(inverse);
  if (upper.info() != Eigen::Success) {
    return absl::InvalidArgumentError(
        "the inverse of the Hessian is not positive definite; raise "
        "the damping");
  }
  MatrixF result = inverse.cast<float>();
  result.triangularView<Eigen::StrictlyLower>().setZero();
  return result;
}

// A range of rows on its way through the columns.
class RowRange {
 public:
  RowRange(MatrixF rows, int64_t first, const MatrixF& inverse, const std::vector<int32_t>& columns,
           bool static_groups, QuantizedWeight& out)
      : rows_(std::move(rows)),
        first_(first),
        inverse_(inverse),
        columns_(columns),
        static_groups_(static_groups),
        grid_(out.scheme),
        out_(out) {}

  // False where a value left f32 on the way: the codes then mean nothing.
  bool Run() {
    const int64_t cols = rows_.cols();
    for (int64_t begin = 0; begin < cols; begin += kColumnsAtOnce) {
      const int64_t n = std::min<int64_t>(kColumnsAtOnce, cols - begin);
      errors_.setZero(rows_.rows(), n);
      for (int64_t i = 0; i < n; ++i) Round(begin + i, i, n);
      const int64_t rest = cols - begin - n;
      rows_.rightCols(rest).noalias() -= errors_ * inverse_.block(begin, begin + n, n, rest);
    }
    return rows_.allFinite();
  }

 private:
  // Column `at`, the i-th of n of its block.
  void Round(int64_t at, int64_t i, int64_t n) {
    const int32_t width = out_.tile.cols;
    if (!static_groups_ && at % width == 0) FitGroup(at / width, at);
    const int32_t column = columns_[at];
    const float diagonal = inverse_(at, at);
    for (int64_t r = 0; r < rows_.rows(); ++r) {
      const float value = rows_(r, at);
      const GroupParams params =
          out_.RowParams(static_cast<int32_t>(first_ + r))[out_.GroupOf(column)];
      const int32_t code = grid_.Code(value, params);
      out_.codes[(first_ + r) * out_.cols + column] = static_cast<int16_t>(code);
      const float error = (value - grid_.Value(code, params)) / diagonal;
      errors_(r, i) = error;
      rows_.row(r).segment(at, n - i) -= error * inverse_.row(at).segment(at, n - i);
    }
  }

  // Scales from the values as they are now: those the columns before have left to round.
  void FitGroup(int64_t group, int64_t at) {
    const int32_t width = out_.tile.cols;
    const size_t across = out_.RowParams(0).size();
    for (int64_t r = 0; r < rows_.rows(); ++r) {
      out_.params[(first_ + r) * across + group] =
          grid_.Fit(absl::MakeConstSpan(&rows_(r, at), width));
    }
  }

  MatrixF rows_;  // permuted
  int64_t first_;
  const MatrixF& inverse_;
  const std::vector<int32_t>& columns_;
  bool static_groups_;
  Grid grid_;
  MatrixF errors_;  // [rows, columns at once]
  QuantizedWeight& out_;
};

}  // namespace

absl::StatusOr<QuantizedWeight> QuantizeGptq(const MatrixF& weight, const MatrixF& hessian,
                                             const Scheme& scheme, const GptqOptions& options) {
  const auto rows = static_cast<int32_t>(weight.rows()), cols = static_cast<int32_t>(weight.cols());
  if (TileOf(scheme, rows, cols).rows != 1) {
    return absl::InvalidArgumentError(absl::StrCat("GPTQ treats rows by themselves, ",
                                                   SchemeName(scheme), " has scales over several"));
  }
  const std::vector<int32_t> columns = OrderOf(hessian, options.order);
  NIBBLE_ASSIGN_OR_RETURN(const MatrixF inverse, InverseFactor(hessian, columns, options.damping));
  const bool static_groups =
      options.tiles != nullptr || options.order == ColumnOrder::kByActivation;
  QuantizedWeight out = options.tiles != nullptr ? *options.tiles
                        : static_groups          ? FitTiles(weight, scheme, options.threads)
                                                 : MakeQuantizedWeight(scheme, rows, cols);
  if (options.order == ColumnOrder::kByActivationGIndex) {
    out.group_of_column.resize(cols);
    for (int32_t i = 0; i < cols; ++i) out.group_of_column[columns[i]] = i / out.tile.cols;
  }
  std::atomic<bool> finite{true};
  ParallelRanges(rows, kRowsAtOnce, options.threads, [&](int64_t first, int64_t last) {
    MatrixF part(last - first, cols);
    for (int32_t i = 0; i < cols; ++i) {
      const int32_t column = columns[i];
      if (hessian(column, column) > 0) {
        part.col(i) = weight.col(column).segment(first, last - first);
      } else {
        part.col(i).setZero();
      }
    }
    if (!RowRange(std::move(part), first, inverse, columns, static_groups, out).Run()) {
      finite.store(false);
    }
  });
  if (!finite.load()) {
    return absl::DataLossError(
        "what rounding leaves to other columns is beyond f32; is a weight damaged?");
  }
  return out;
}

double OutputError(const MatrixF& weight, const MatrixF& values, const MatrixF& hessian) {
  const MatrixF error = weight - values;
  return MultiplyTransposed(error, hessian).cwiseProduct(error).cast<double>().sum();
}

}  // namespace nibble::quantize

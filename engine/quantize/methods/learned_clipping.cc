#include "engine/quantize/methods/learned_clipping.h"

#include <algorithm>
#include <vector>

#include "engine/quantize/methods/grid.h"
#include "engine/quantize/methods/parallel.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

constexpr int64_t kRowsAtOnce = 8;
constexpr float kStep = 0.02f;  // of the whole range, between what is tried

// One row: the error e = w - v of all its columns, and H e, kept up to date.
class Row {
 public:
  Row(const float* weight, const MatrixF& hessian, const Grid& grid, const ClippingOptions& options,
      int32_t width, bool two_ended)
      : weight_(Eigen::Map<const VectorF>(weight, hessian.cols())),
        hessian_(hessian),
        grid_(grid),
        options_(options),
        width_(width),
        two_ended_(two_ended),
        ranges_(hessian.cols() / width) {
    error_.resize(weight_.size());
    for (int64_t g = 0; g < groups(); ++g) {
      ranges_[g] = RangeOf(absl::MakeConstSpan(weight_.data() + g * width_, width_));
      Errors(g, ranges_[g], error_.data() + g * width_);
    }
    pull_.noalias() = hessian_ * error_;
  }

  int64_t groups() const { return static_cast<int64_t>(ranges_.size()); }
  GroupParams params(int64_t group) const { return grid_.ParamsFor(ranges_[group]); }

  void Search() {
    for (int sweep = 0; sweep < std::max(1, options_.sweeps); ++sweep) {
      for (int64_t g = 0; g < groups(); ++g) SearchGroup(g);
    }
  }

 private:
  void SearchGroup(int64_t g) {
    const ValueRange whole = RangeOf(absl::MakeConstSpan(weight_.data() + g * width_, width_));
    ValueRange best = ranges_[g];
    double least = 0;  // of the change from what there is now
    const auto consider = [&](ValueRange range) {
      const double change = Change(g, range);
      if (change < least) {
        least = change;
        best = range;
      }
    };
    for (float by = 1.0f; by > options_.least; by -= kStep) consider(whole.Shrunk(by));
    if (two_ended_) {
      const ValueRange both = best;
      for (float by = 1.0f; by > options_.least; by -= kStep) {
        consider({whole.low * by, both.high});
      }
      const ValueRange low = best;
      for (float by = 1.0f; by > options_.least; by -= kStep) {
        consider({low.low, whole.high * by});
      }
    }
    if (least < 0) Take(g, best);
  }

  // Of the loss, if the group had this range: 2 d (H e) + d H d, d the change of its errors; H's
  // part for the group alone when groups are not to see each other.
  double Change(int64_t g, ValueRange range) {
    trial_.resize(width_);
    Errors(g, range, trial_.data());
    const auto part = hessian_.block(g * width_, g * width_, width_, width_);
    const auto now = error_.segment(g * width_, width_);
    product_.noalias() = part * (trial_ - now);
    const double quadratic = (trial_ - now).dot(product_);
    if (options_.sweeps > 0) {
      return 2.0 * (trial_ - now).dot(pull_.segment(g * width_, width_)) + quadratic;
    }
    return 2.0 * now.dot(product_) + quadratic;
  }

  void Take(int64_t g, ValueRange range) {
    trial_.resize(width_);
    Errors(g, range, trial_.data());
    pull_.noalias() +=
        hessian_.middleCols(g * width_, width_) * (trial_ - error_.segment(g * width_, width_));
    error_.segment(g * width_, width_) = trial_;
    ranges_[g] = range;
  }

  void Errors(int64_t g, ValueRange range, float* out) const {
    const GroupParams params = grid_.ParamsFor(range);
    const float* weight = weight_.data() + g * width_;
    for (int32_t i = 0; i < width_; ++i) out[i] = weight[i] - grid_.Nearest(weight[i], params);
  }

  VectorF weight_;
  const MatrixF& hessian_;
  const Grid& grid_;
  const ClippingOptions& options_;
  int32_t width_;
  bool two_ended_;
  std::vector<ValueRange> ranges_;
  VectorF error_, pull_, trial_, product_;
};

}  // namespace

QuantizedWeight LearnClipping(const MatrixF& weight, const MatrixF& hessian, const Scheme& scheme,
                              const ClippingOptions& options) {
  const auto rows = static_cast<int32_t>(weight.rows()), cols = static_cast<int32_t>(weight.cols());
  QuantizedWeight out = MakeQuantizedWeight(scheme, rows, cols);
  NIBBLE_CHECK(out.tile.rows == 1 && !scheme.double_quantized);
  const Grid grid(scheme);
  const bool two_ended = scheme.grid == GridKind::kAsymmetric;
  ParallelRanges(rows, kRowsAtOnce, options.threads, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      Row row(&weight(n, 0), hessian, grid, options, out.tile.cols, two_ended);
      row.Search();
      for (int64_t g = 0; g < row.groups(); ++g) {
        out.params[n * row.groups() + g] = row.params(g);
      }
    }
  });
  RoundInto(weight, out, options.threads);
  return out;
}

}  // namespace nibble::quantize

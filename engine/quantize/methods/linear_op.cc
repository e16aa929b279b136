#include "engine/quantize/methods/linear_op.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "engine/quantize/methods/gemm.h"
#include "kernels/half.h"

namespace nibble::quantize {
namespace {

constexpr float kLevels = 127;

// Codes of a row over its own maximum, or a given one; the scale is returned.
float ToCodes(const float* values, int64_t n, float max, float* codes) {
  const float scale = max / kLevels;
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = scale > 0 ? std::nearbyint(std::clamp(values[i] / scale, -kLevels, kLevels)) : 0.0f;
  }
  return scale;
}

struct Int8Rows {
  MatrixF codes;
  VectorF scales;  // a row

  explicit Int8Rows(const MatrixF& values, float max = 0) {
    codes.resize(values.rows(), values.cols());
    scales.resize(values.rows());
    for (int64_t n = 0; n < values.rows(); ++n) {
      const float range = max > 0 ? max : values.row(n).cwiseAbs().maxCoeff();
      scales[n] = ToCodes(values.row(n).data(), values.cols(), range, codes.row(n).data());
    }
  }
};

MatrixF Multiply(const Int8Rows& x, const Int8Rows& weight) {
  MatrixF y = MultiplyTransposed(x.codes, weight.codes);
  y.array().colwise() *= x.scales.array();
  y.array().rowwise() *= weight.scales.transpose().array();
  return y;
}

float HalfOf(float value) { return F16ToF32(F32ToF16(value)); }

class DenseOp : public LinearOp {
 public:
  explicit DenseOp(MatrixF weight) : weight_(std::move(weight)) {}
  MatrixF Apply(const MatrixF& x) const override { return MultiplyTransposed(x, weight_); }

 private:
  MatrixF weight_;
};

class W8A8Op : public LinearOp {
 public:
  W8A8Op(const MatrixF& weight, float input_max) : weight_(weight), input_max_(input_max) {}
  MatrixF Apply(const MatrixF& x) const override {
    return Multiply(Int8Rows(x, input_max_), weight_);
  }

 private:
  Int8Rows weight_;
  float input_max_;
};

class OutlierOp : public LinearOp {
 public:
  OutlierOp(const MatrixF& weight, float threshold)
      : weight_(weight), threshold_(threshold), half_(weight.unaryExpr(&HalfOf)) {}

  MatrixF Apply(const MatrixF& x) const override {
    MatrixF rest = x;
    std::vector<int64_t> outliers;
    for (int64_t j = 0; j < x.cols(); ++j) {
      if (x.col(j).cwiseAbs().maxCoeff() < threshold_) continue;
      outliers.push_back(j);
      rest.col(j).setZero();
    }
    MatrixF y = Multiply(Int8Rows(rest), weight_);
    if (outliers.empty()) return y;
    y.noalias() +=
        x(Eigen::all, outliers).unaryExpr(&HalfOf) * half_(Eigen::all, outliers).transpose();
    return y;
  }

 private:
  Int8Rows weight_;
  float threshold_;
  MatrixF half_;
};

}  // namespace

std::unique_ptr<LinearOp> MakeDenseOp(MatrixF weight) {
  return std::make_unique<DenseOp>(std::move(weight));
}
std::unique_ptr<LinearOp> MakeW8A8Op(const MatrixF& weight, float input_max) {
  return std::make_unique<W8A8Op>(weight, input_max);
}
std::unique_ptr<LinearOp> MakeOutlierOp(const MatrixF& weight, float threshold) {
  return std::make_unique<OutlierOp>(weight, threshold);
}

}  // namespace nibble::quantize

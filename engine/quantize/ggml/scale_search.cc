#include "engine/quantize/ggml/scale_search.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace nibble {
namespace {

constexpr int kLanes = 8;
constexpr int kMaxElements = 256;
// Far below the least f16, 6e-8, that a step is stored as: what is smaller counts as zero, so that
// no inverse overflows.
constexpr float kNothing = 1e-20f;
// Rounds of codes for the step, step for the codes, after the best candidate: two thirds of what
// more would gain comes with the first.
constexpr int kRefinements = 3;

// sum of term(i) over 0 .. n - 1.
template <typename Term>
float Sum(int n, Term term) {
  float lanes[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

float Clamp(float value, float lo, float hi) {
  value = value < lo ? lo : value;
  return value > hi ? hi : value;
}

// What a set of grid values is worth: the best step for them, and the part of sum w x^2 it
// explains.
struct Worth {
  float scale = 0;
  float explained = -1;
};

Worth WorthOf(const float* x, const float* w, int n, const float* values) {
  const float along = Sum(n, [&](int i) { return w[i] * x[i] * values[i]; });
  const float square = Sum(n, [&](int i) { return w[i] * values[i] * values[i]; });
  if (square <= 0) return {};
  return {along / square, along / square * along};
}

class ScaleSearch {
 public:
  ScaleSearch(const Grid& grid, const float* x, const float* w, int n, float* values)
      : grid_(grid), x_(x), w_(w), n_(n), values_(values) {}

  void Try(float inverse) {
    float values[kMaxElements];
    SnapToGrid(grid_, inverse, x_, n_, values);
    const Worth worth = WorthOf(x_, w_, n_, values);
    if (worth.explained <= best_.explained) return;
    best_ = worth;
    std::copy(values, values + n_, values_);
  }

  float best_scale() const { return best_.scale; }

 private:
  const Grid& grid_;
  const float* x_;
  const float* w_;
  const int n_;
  float* values_;
  Worth best_;
};

// The value of the largest magnitude.
float Extreme(const float* x, int n) {
  float extreme = 0;
  for (int i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  return extreme;
}

// The sums of w x and codes that the best scale and min follow from.
class AffineSearch {
 public:
  AffineSearch(float max_code, bool min_is_negative, const float* x, const float* w, int n)
      : max_code_(max_code), min_is_negative_(min_is_negative), x_(x), w_(w), n_(n) {
    sum_w_ = Sum(n, [&](int i) { return w[i]; });
    sum_x_ = Sum(n, [&](int i) { return w[i] * x[i]; });
  }

  // Codes by this scale and min, then the scale and min that suit those codes best.
  void Try(float scale, float min) {
    if (!(scale > 0)) return;
    float codes[kMaxElements];
    AffineCodes(max_code_, scale, min, x_, w_, n_, codes);
    const AffineFit fit = BestFor(codes);
    if (!(fit.scale > 0)) return;
    const float error = Sum(n_, [&](int i) {
      const float off = fit.scale * codes[i] + fit.min - x_[i];
      return w_[i] * off * off;
    });
    if (found_ && error >= error_) return;
    found_ = true;
    error_ = error;
    best_ = fit;
  }

  bool found() const { return found_; }
  const AffineFit& best() const { return best_; }

 private:
  AffineFit BestFor(const float* codes) const {
    const float l = Sum(n_, [&](int i) { return w_[i] * codes[i]; });
    const float l2 = Sum(n_, [&](int i) { return w_[i] * codes[i] * codes[i]; });
    const float lx = Sum(n_, [&](int i) { return w_[i] * codes[i] * x_[i]; });
    const float determinant = sum_w_ * l2 - l * l;
    if (determinant > 0) {
      const AffineFit fit = {(sum_w_ * lx - sum_x_ * l) / determinant,
                             (l2 * sum_x_ - l * lx) / determinant};
      if (!min_is_negative_ || fit.min <= 0) return fit;
    }
    return {l2 > 0 ? lx / l2 : 0, 0};
  }

  const float max_code_;
  const bool min_is_negative_;
  const float* x_;
  const float* w_;
  const int n_;
  float sum_w_ = 0, sum_x_ = 0;
  bool found_ = false;
  float error_ = 0;
  AffineFit best_;
};

}  // namespace

void SnapToGrid(const Grid& grid, float inverse, const float* x, int n, float* values) {
  if (grid.table == nullptr) {
    for (int i = 0; i < n; ++i) values[i] = Nearest(Clamp(inverse * x[i], grid.lo, grid.hi));
    return;
  }
  for (int i = 0; i < n; ++i) values[i] = grid.table[0];
  for (int k = 1; k < kMaxGridValues; ++k) {
    const float value = grid.table[k];
    const float middle = 0.5f * (value + static_cast<float>(grid.table[k - 1]));
    for (int i = 0; i < n; ++i) values[i] = inverse * x[i] > middle ? value : values[i];
  }
}

float SearchScale(const Grid& grid, const float* x, const float* w, int n, float* values) {
  NIBBLE_CHECK(n % kLanes == 0 && n <= kMaxElements);
  std::fill(values, values + n, 0.0f);
  const float extreme = Extreme(x, n);
  if (std::fabs(extreme) < kNothing) return 0;
  ScaleSearch search(grid, x, w, n, values);
  constexpr int kSteps = 9;
  for (int step = -kSteps; step <= kSteps; ++step) {
    const float shift = grid.spread * static_cast<float>(step) / kSteps;
    search.Try((grid.lo + shift) / extreme);
    search.Try((grid.hi + shift) / extreme);
  }
  for (int i = 0; i < kRefinements && search.best_scale() != 0; ++i) {
    search.Try(1.0f / search.best_scale());
  }
  return search.best_scale();
}

float GridValues(const Grid& grid, float scale, const float* x, const float* w, int n,
                 float* values) {
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  SnapToGrid(grid, inverse, x, n, values);
  return Sum(n, [&](int i) {
    const float off = scale * values[i] - x[i];
    return w[i] * off * off;
  });
}

float AffineCodes(float max_code, float scale, float min, const float* x, const float* w, int n,
                  float* codes) {
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  for (int i = 0; i < n; ++i) {
    codes[i] = Nearest(Clamp(inverse * (x[i] - min), 0.0f, max_code));
  }
  return Sum(n, [&](int i) {
    const float off = scale * codes[i] + min - x[i];
    return w[i] * off * off;
  });
}

AffineFit SearchAffine(float max_code, bool min_is_negative, const float* x, const float* w,
                       int n) {
  NIBBLE_CHECK(n % kLanes == 0 && n <= kMaxElements);
  float min = *std::min_element(x, x + n);
  const float max = *std::max_element(x, x + n);
  if (min_is_negative) min = std::min(min, 0.0f);
  if (!(max - min > kNothing)) return {0, min};
  AffineSearch search(max_code, min_is_negative, x, w, n);
  // From a step 1 / (max_code - 1) of the range, which clips, to one that reaches past it.
  constexpr int kSteps = 36;
  for (int step = 0; step <= kSteps; ++step) {
    const float steps = max_code - 0.9f + 0.05f * static_cast<float>(step);
    search.Try((max - min) / steps, min);
  }
  for (int i = 0; i < kRefinements && search.found(); ++i) {
    search.Try(search.best().scale, search.best().min);
  }
  return search.found() ? search.best() : AffineFit{(max - min) / max_code, min};
}

}  // namespace nibble

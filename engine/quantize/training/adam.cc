#include "engine/quantize/training/adam.h"

#include <cmath>

namespace nibble::quantize {

void Adam::Step(int64_t number, float rate, const MatrixF& gradient, MatrixF& values) {
  constexpr float kMeanDecay = 0.9f, kSquareDecay = 0.999f, kEpsilon = 1e-8f;
  mean_ = kMeanDecay * mean_ + (1 - kMeanDecay) * gradient;
  square_.array() = kSquareDecay * square_.array() + (1 - kSquareDecay) * gradient.array().square();
  const auto n = static_cast<float>(number);
  const float mean_scale = 1 / (1 - std::pow(kMeanDecay, n));
  const float square_scale = 1 / (1 - std::pow(kSquareDecay, n));
  values.array() -=
      rate * mean_scale * mean_.array() / ((square_scale * square_.array()).sqrt() + kEpsilon);
}

}  // namespace nibble::quantize

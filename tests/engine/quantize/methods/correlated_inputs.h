// Inputs of a layer as a model has them: correlated, and of very different sizes from channel to
// channel.
#pragma once

#include <cmath>
#include <random>

#include "engine/quantize/methods/dense.h"

namespace nibble::quantize::testing {

// [tokens, cols]: a few shared directions and noise of its own in every channel; channel sizes
// spread by a factor of about 10.
inline MatrixF CorrelatedInputs(int32_t tokens, int32_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  const auto draw = [&] { return normal(random); };
  const int32_t shared = cols / 8;
  const MatrixF mixing = MatrixF::NullaryExpr(shared, cols, draw);
  MatrixF x = MatrixF::NullaryExpr(tokens, shared, draw) * mixing / std::sqrt(float(shared));
  x += 0.5f * MatrixF::NullaryExpr(tokens, cols, draw);
  for (int32_t j = 0; j < cols; ++j) x.col(j) *= std::exp(0.6f * normal(random));
  return x;
}

// X^T X / tokens.
inline MatrixF HessianOf(const MatrixF& x) {
  return x.transpose() * x / static_cast<float>(x.rows());
}

}  // namespace nibble::quantize::testing

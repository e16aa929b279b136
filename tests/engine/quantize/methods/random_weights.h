// Weights as the round-trip figures of other quantizers were measured on: normal of deviation 0.02,
// and Student's t with 5 degrees of freedom (heavy tails). Deterministic for a seed.
#pragma once

#include <random>

#include "engine/quantize/methods/dense.h"

namespace nibble::quantize::testing {

inline MatrixF NormalWeights(int32_t rows, int32_t cols, uint32_t seed, float deviation = 0.02f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  return MatrixF::NullaryExpr(rows, cols, [&] { return normal(random); });
}

inline MatrixF HeavyTailedWeights(int32_t rows, int32_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> student(5);
  return MatrixF::NullaryExpr(rows, cols, [&] { return 0.02f * student(random); });
}

}  // namespace nibble::quantize::testing

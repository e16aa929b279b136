// What calibration keeps of the inputs of a linear: sums over tokens, never the inputs.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/quantize/methods/activation_range.h"
#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

class InputStats {
 public:
  explicit InputStats(int32_t cols);

  // Adds inputs [tokens, cols] in the order given; the sums are the same bits on any number of
  // threads. Cost: tokens cols^2 / 2 multiplications. REQUIRES finite inputs.
  void Add(absl::Span<const MatrixF* const> inputs, int threads);

  int64_t tokens() const { return tokens_; }
  // False where inputs were so large (over 1e19) that the sum of their squares left f32.
  bool finite() const { return products_.allFinite() && sum_abs_.allFinite(); }
  MatrixF Hessian() const;  // X^T X / tokens, [cols, cols]
  VectorF MeanAbs() const;  // mean |x_j|, [cols]
  const VectorF& max_abs() const { return max_abs_; }
  const MagnitudeHistogram& magnitudes() const { return magnitudes_; }  // of all channels

 private:
  int64_t tokens_ = 0;
  MatrixF products_;  // X^T X: its upper triangle, in blocks
  VectorF sum_abs_, max_abs_;
  MagnitudeHistogram magnitudes_;
};

}  // namespace nibble::quantize

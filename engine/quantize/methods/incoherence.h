// Incoherence processing (QuIP, arXiv 2307.13304; QuIP#, arXiv 2402.04396): a random rotation of
// inputs and outputs spreads large weights over their row and column, so that a coarse grid fits
// all of them.
//   W' = U W V^T is quantized, H' = V H V^T;  W ~ U^T W'q V
// U and V are randomized Hadamard transforms: random signs, then Sylvester's Hadamard matrix over
// its square root, in blocks of the largest power of two that divides the dimension (256 for 768,
// 64 for 576). Orthogonal, its own inverse but for the order, n log n.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

class Rotation {
 public:
  // Deterministic for (n, seed) on any machine.
  Rotation(int32_t n, uint64_t seed);

  void Forward(float* x) const;  // [n] in place
  void Inverse(float* x) const;
  int32_t block() const { return block_; }

 private:
  int32_t block_ = 1;
  std::vector<float> signs_;
};

// The two sides of a matrix [rows, cols].
class Incoherence {
 public:
  Incoherence(int32_t rows, int32_t cols, uint64_t seed);

  MatrixF Rotate(const MatrixF& weight) const;          // U W V^T
  MatrixF RotateBack(const MatrixF& weight) const;      // U^T W V
  MatrixF RotateHessian(const MatrixF& hessian) const;  // V H V^T

 private:
  Rotation out_, in_;
};

}  // namespace nibble::quantize

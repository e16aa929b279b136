#include "engine/quantize/methods/incoherence.h"

#include <cmath>

namespace nibble::quantize {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): the standard library's engines are portable, its
// distributions are not.
uint64_t NextRandom(uint64_t& state) {
  uint64_t z = (state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Sylvester's transform of each block, scaled to be orthogonal.
void Hadamard(float* x, int32_t n, int32_t block) {
  for (int32_t half = 1; half < block; half *= 2) {
    for (int32_t i = 0; i < n; i += 2 * half) {
      for (int32_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
    }
  }
  const float scale = 1 / std::sqrt(static_cast<float>(block));
  for (int32_t i = 0; i < n; ++i) x[i] *= scale;
}

// Every row of x by `transform`.
template <typename Transform>
void ForRows(MatrixF& x, Transform transform) {
  for (int64_t n = 0; n < x.rows(); ++n) transform(x.row(n).data());
}

}  // namespace

Rotation::Rotation(int32_t n, uint64_t seed) : signs_(n) {
  while (n % (2 * block_) == 0) block_ *= 2;
  for (float& sign : signs_) sign = NextRandom(seed) >> 63 != 0 ? -1.0f : 1.0f;
}

void Rotation::Forward(float* x) const {
  for (size_t i = 0; i < signs_.size(); ++i) x[i] *= signs_[i];
  Hadamard(x, static_cast<int32_t>(signs_.size()), block_);
}

void Rotation::Inverse(float* x) const {
  Hadamard(x, static_cast<int32_t>(signs_.size()), block_);
  for (size_t i = 0; i < signs_.size(); ++i) x[i] *= signs_[i];
}

Incoherence::Incoherence(int32_t rows, int32_t cols, uint64_t seed)
    : out_(rows, seed), in_(cols, ~seed) {}

MatrixF Incoherence::Rotate(const MatrixF& weight) const {
  MatrixF rotated = weight;
  ForRows(rotated, [this](float* row) { in_.Forward(row); });
  MatrixF columns = rotated.transpose();
  ForRows(columns, [this](float* column) { out_.Forward(column); });
  return columns.transpose();
}

MatrixF Incoherence::RotateBack(const MatrixF& weight) const {
  MatrixF columns = weight.transpose();
  ForRows(columns, [this](float* column) { out_.Inverse(column); });
  MatrixF rotated = columns.transpose();
  ForRows(rotated, [this](float* row) { in_.Inverse(row); });
  return rotated;
}

MatrixF Incoherence::RotateHessian(const MatrixF& hessian) const {
  MatrixF rotated = hessian;
  ForRows(rotated, [this](float* row) { in_.Forward(row); });
  MatrixF columns = rotated.transpose();
  ForRows(columns, [this](float* column) { in_.Forward(column); });
  return columns;
}

}  // namespace nibble::quantize

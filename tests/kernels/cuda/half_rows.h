// Rows of 16-bit floats for the tests of the kernels, and what "equal" means for their results.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "kernels/tensor.h"

namespace nibble::cuda {

inline uint16_t ToHalf(DType type, float x) {
  return type == DType::kBf16 ? F32ToBf16(x) : F32ToF16(x);
}
inline float ToFloat(DType type, uint16_t x) {
  return type == DType::kBf16 ? Bf16ToF32(x) : F16ToF32(x);
}

inline std::vector<uint16_t> RandomHalves(DType type, size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<uint16_t> halves(n);
  for (uint16_t& x : halves) x = ToHalf(type, normal(random));
  return halves;
}

inline std::vector<double> ToDoubles(DType type, const std::vector<uint16_t>& halves) {
  std::vector<double> out;
  for (const uint16_t x : halves) out.push_back(ToFloat(type, x));
  return out;
}

// |got - expected| / |expected|, Euclidean.
inline double RelativeError(const std::vector<double>& got, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

// Of results that are f32 sums, rounded once to 16 bits: bf16 has 8 bits of precision, so that
// rounding alone makes a relative error of 2^-9 / sqrt(3) to 2^-8 / sqrt(3) an element, 1.7e-3 over
// many.
inline constexpr double kTolerance = 2e-3;

}  // namespace nibble::cuda

// Random canonical matrices for the kernel tests: every format, from a seed.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>

#include "kernels/half.h"
#include "kernels/quant/matrix.h"

namespace nibble::quant {

struct RandomSpec {
  Format format = Format::kInt4Affine;
  int32_t rows = 16;
  int32_t cols = 64;
  int32_t group = 32;  // 0 for kBf16, kF32
  bool offsets = false;
  bool f16_scales = true;
};

inline Matrix RandomMatrix(const RandomSpec& spec, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  Matrix matrix{.format = spec.format, .rows = spec.rows, .cols = spec.cols, .group = spec.group};
  const int64_t elements = static_cast<int64_t>(spec.rows) * spec.cols;
  if (spec.format == Format::kF32 || spec.format == Format::kBf16) {
    for (int64_t i = 0; i < elements; ++i) {
      const float value = normal(random);
      uint8_t bytes[4];
      const uint16_t bf16 = F32ToBf16(value);
      const size_t size = spec.format == Format::kF32 ? 4 : 2;
      std::memcpy(bytes, size == 4 ? static_cast<const void*>(&value) : &bf16, size);
      matrix.codes.insert(matrix.codes.end(), bytes, bytes + size);
    }
    return matrix;
  }
  const bool is_4bit = spec.format == Format::kInt4Affine || spec.format == Format::kLut4;
  matrix.codes.resize(is_4bit ? elements / 2 : elements);
  for (uint8_t& code : matrix.codes) code = static_cast<uint8_t>(random());
  const auto draw = [&](float spread) {
    const float value = spread * normal(random);
    return spec.f16_scales ? F16ToF32(F32ToF16(value)) : value;
  };
  const int64_t groups = elements / spec.group;
  for (int64_t i = 0; i < groups; ++i) matrix.scales.push_back(draw(0.01f));
  for (int64_t i = 0; i < groups && spec.offsets; ++i) matrix.offsets.push_back(draw(0.1f));
  for (float& entry : matrix.table) entry = normal(random);
  return matrix;
}

}  // namespace nibble::quant

// Random canonical matrices for the kernel tests: every format, from a seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

#include "kernels/fp8.h"
#include "kernels/half.h"
#include "kernels/quant/matrix.h"

namespace nibble::quant {

struct RandomSpec {
  Format format = Format::kInt4Affine;
  int32_t rows = 16;
  int32_t cols = 64;
  int32_t group = 32;  // 0 for kBf16, kF32; ignored by k-quants
  bool offsets = false;
  bool f16_scales = true;
  int32_t row_group = 1;  // kFp8
  Fp8 fp8 = Fp8::kE4m3;
  enum class Table : uint8_t { kAny, kInteger, kHalves } table = Table::kAny;  // kLut4
  bool e8m0_scales = false;
};

inline void FillFloatCodes(Matrix& matrix, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (int64_t i = 0; i < static_cast<int64_t>(matrix.rows) * matrix.cols; ++i) {
    const float value = normal(random);
    uint8_t bytes[4];
    const uint16_t bf16 = F32ToBf16(value);
    const size_t size = matrix.format == Format::kF32 ? 4 : 2;
    std::memcpy(bytes, size == 4 ? static_cast<const void*>(&value) : &bf16, size);
    matrix.codes.insert(matrix.codes.end(), bytes, bytes + size);
  }
}

// Codes that Validate takes: fp8 has some that are not numbers, a k-quant's have fewer bits.
inline uint8_t RandomCode(const Matrix& matrix, std::mt19937& random) {
  for (;;) {
    const auto code = static_cast<uint8_t>(random());
    if (matrix.format == Format::kInt5Affine || matrix.format == Format::kQ5K) return code % 32;
    if (matrix.format == Format::kQ6K) return static_cast<uint8_t>(code % 64 - 32);
    if (matrix.format != Format::kFp8) return code;
    if (matrix.fp8 == Fp8::kE4m3 ? !E4m3IsNan(code) : E5m2IsFinite(code)) return code;
  }
}

inline Matrix RandomMatrix(const RandomSpec& spec, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  Matrix matrix{.format = spec.format, .rows = spec.rows, .cols = spec.cols, .group = spec.group};
  const int64_t elements = static_cast<int64_t>(spec.rows) * spec.cols;
  if (spec.format == Format::kF32 || spec.format == Format::kBf16) {
    FillFloatCodes(matrix, random);
    return matrix;
  }
  const bool has_mins = spec.format == Format::kQ4K || spec.format == Format::kQ5K;
  const bool is_q6k = spec.format == Format::kQ6K;
  if (has_mins || is_q6k) matrix.group = kSuperBlock;
  matrix.row_group = spec.row_group;
  matrix.fp8 = spec.fp8;
  const bool is_4bit = spec.format == Format::kInt4Affine || spec.format == Format::kLut4 ||
                       spec.format == Format::kQ4K;
  matrix.codes.resize(is_4bit ? elements / 2 : elements);
  for (uint8_t& code : matrix.codes) code = RandomCode(matrix, random);
  const auto draw = [&](float spread) {
    const float value = spread * normal(random);
    if (spec.e8m0_scales) return std::exp2(std::round(2 * normal(random)) - 4);
    return spec.f16_scales ? F16ToF32(F32ToF16(value)) : value;
  };
  const int64_t groups_across = (spec.cols + matrix.group - 1) / matrix.group;
  const int64_t groups_down = (spec.rows + spec.row_group - 1) / spec.row_group;
  const int64_t groups = groups_across * groups_down;
  for (int64_t i = 0; i < groups; ++i) matrix.scales.push_back(draw(0.01f));
  const bool offsets = spec.offsets || has_mins;
  for (int64_t i = 0; i < groups && offsets; ++i) matrix.offsets.push_back(draw(0.1f));
  for (int64_t i = 0; i < elements / kQ4KSubBlock * 2 && has_mins; ++i) {
    matrix.sub_scales.push_back(static_cast<uint8_t>(random() % 64));
  }
  for (int64_t i = 0; i < elements / kQ6KSubBlock && is_q6k; ++i) {
    matrix.sub_scales.push_back(static_cast<uint8_t>(random()));
  }
  for (float& entry : matrix.table) {
    entry = normal(random);
    if (spec.table == RandomSpec::Table::kAny) continue;
    entry = std::round(std::fmin(std::fmax(entry * 60, -127.0f), 127.0f));
    if (spec.table == RandomSpec::Table::kHalves) entry *= 0.5f;
  }
  return matrix;
}

// Rows first .. first + count - 1 of a matrix whose codes and scales are counted by row.
inline Matrix SliceRows(Matrix matrix, int32_t first, int32_t count) {
  const auto cut = [&](auto& all) {
    const size_t row = all.size() / matrix.rows;
    all = {all.begin() + row * first, all.begin() + row * (first + count)};
  };
  cut(matrix.codes);
  cut(matrix.scales);
  cut(matrix.offsets);
  matrix.rows = count;
  return matrix;
}

}  // namespace nibble::quant

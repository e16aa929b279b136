// The element types of the KV cache (KvLayer in kernels/ops.h says what each means), as a codec
// each: how a vector of codes is read, and how a row is written. Included by one translation unit
// per ISA; the encoders are plain loops over bits, so every ISA writes the same cache.
#pragma once

#include <cstdint>

namespace nibble::cpu {
namespace {

// Rows whose largest magnitude is less are stored as zeros: the inverse of their scale is no f32.
constexpr float kSmallestRow = 1e-30f;

inline uint32_t BitsOf(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float FloatOf(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// What a row's values are multiplied by to become codes, and its codes to become values.
struct RowScale {
  float inverse = 1;
  float scale = 1;
};

// `top` is the largest value a code reads as. Scale NaN for a row that is not finite; inverse 0
// where all codes are to be 0.
inline RowScale ScaleOfRow(const float* x, int32_t n, float top) {
  uint32_t largest = 0;  // magnitudes compare as their bits do, infinity and NaN above all
  for (int32_t i = 0; i < n; ++i) {
    const uint32_t magnitude = BitsOf(x[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (largest >= 0x7F800000u) return {0.0f, __builtin_nanf("")};
  const float max = FloatOf(largest);
  if (max < kSmallestRow) return {0.0f, 0.0f};
  return {top / max, max / top};
}

template <class V>
struct F16Codec {
  using Code = uint16_t;
  static constexpr bool kScaled = false;
  static typename V::Reg Load(const Code* p) { return V::LoadF16(p); }
  static void Encode(const float* x, int32_t n, float, Code* codes) {
    for (int32_t i = 0; i < n; i += V::kWidth) {
      V::StoreF16Partial(codes + i, V::LoadPartial(x + i, n - i), n - i);
    }
  }
};

template <class V>
struct Bf16Codec {
  using Code = uint16_t;
  static constexpr bool kScaled = false;
  static typename V::Reg Load(const Code* p) { return V::LoadBf16(p); }
  static void Encode(const float* x, int32_t n, float, Code* codes) {
    for (int32_t i = 0; i < n; ++i) {
      const uint32_t bits = BitsOf(x[i]);
      const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
      const uint32_t nan = (bits >> 16) | 0x40u;  // rounding could carry a NaN into infinity
      codes[i] = static_cast<Code>((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
    }
  }
};

template <class V>
struct I8Codec {
  using Code = int8_t;
  static constexpr bool kScaled = true;
  static constexpr float kTop = 127;
  static typename V::Reg Load(const Code* p) { return V::LoadI8(p); }
  // Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low bits.
  static void Encode(const float* x, int32_t n, float inverse, Code* codes) {
    for (int32_t i = 0; i < n; ++i) {
      const uint32_t bits = BitsOf(x[i] * inverse + 12582912.0f);
      codes[i] = static_cast<Code>(static_cast<int32_t>(bits - 0x4B400000u));
    }
  }
};

// Codes are read as their value * 2^-8 (V::LoadE4m3), so 448 is 1.75 here and in the scale.
template <class V>
struct E4m3Codec {
  using Code = uint8_t;
  static constexpr bool kScaled = true;
  static constexpr float kTop = 1.75f;
  static typename V::Reg Load(const Code* p) { return V::LoadE4m3(p); }
  static void Encode(const float* x, int32_t n, float inverse, Code* codes) {
    constexpr uint32_t kLeastNormal = 113u << 23;  // 2^-14; below it codes are 2^-17 apart
    for (int32_t i = 0; i < n; ++i) {
      const uint32_t bits = BitsOf(x[i] * inverse), magnitude = bits & 0x7FFFFFFFu;
      const uint32_t normal =
          ((magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u)) >> 20) - (112u << 3);
      const uint32_t subnormal = BitsOf(FloatOf(magnitude) + 64.0f) - BitsOf(64.0f);
      const uint32_t code = magnitude < kLeastNormal ? subnormal : normal;
      codes[i] = static_cast<Code>(code | (bits >> 31) << 7);
    }
  }
};

// The codes of one head's block, and where its scales are.
template <class Codec>
inline auto ScalesOf(typename Codec::Code* head_block, int32_t block_size, int32_t head_dim) {
  return reinterpret_cast<float*>(head_block + int64_t{block_size} * head_dim);
}

}  // namespace
}  // namespace nibble::cpu

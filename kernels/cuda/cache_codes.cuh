// What a cache's elements are: 16-bit floats as they come, or 8-bit codes with a scale for each
// position and head, which are widened to 16 bits, exactly, before they enter an mma. A widened
// code reads as its value times kUnit.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"

namespace nibble::cuda {

struct HalfCodes {
  static constexpr bool kScaled = false;
};

// Two's complement: the low 7 bits, less 128 where the sign is set.
struct I8Codes {
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 127;  // value of a code; a row's largest becomes it
  static constexpr float kEncodeUnit = 1;
  // The code nearest to x, |x| at most kLargest, ties to even: adding 1.5 * 2^23 leaves it in the
  // low bits.
  static __device__ __forceinline__ uint8_t Encode(float x) {
    return static_cast<uint8_t>(ptx::BitsOfFloat(x + 12582912.0f) - 0x4B400000u);
  }
  // Of f16 / 128, so that weights times scales stay in f16's range where values are.
  template <class Half>
  static constexpr float kUnit = Half::kIsF16 ? 0x1p-7f : 1.0f;

  // Four codes, the first in the lowest byte.
  template <class Half>
  static __device__ __forceinline__ void Widen(uint32_t codes, uint32_t (&pairs)[2]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t bytes = ptx::BytePermute(codes, 0, i == 0 ? 0x4140u : 0x4342u);
      if constexpr (Half::kIsF16) {
        const uint32_t low = ptx::Lop3<kAndOr>(bytes, 0x007F007Fu, 0x64006400u);   // 1024 + low
        const uint32_t sign = ptx::Lop3<kAndOr>(bytes, 0x00800080u, 0xC800C800u);  // -8 or -9
        pairs[i] = ptx::FmaF16x2(low, 0x20002000u, sign);                          // 2^-7
      } else {
        const uint32_t low = ptx::Lop3<kAndOr>(bytes, 0x007F007Fu, 0x43004300u);   // 128 + low
        const uint32_t sign = ptx::Lop3<kAndOr>(bytes, 0x00800080u, 0xC300C300u);  // -128 or -256
        pairs[i] = ptx::FmaBf16x2(low, Half::kOnes, sign);
      }
    }
  }
};

// The bits, moved to where the wider type has them; its exponent bias is 8 or 120 more. Subnormals
// come out right as well. NaN codes, which no row of the cache has, do not.
struct E4m3Codes {
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 448;
  static constexpr float kEncodeUnit = 0x1p-8f;
  // The code nearest to 2^8 x, |x| at most 1.75, ties to even: the bits of a float whose exponents
  // are those of an f16.
  static __device__ __forceinline__ uint8_t Encode(float x) {
    const uint32_t bits = ptx::BitsOfFloat(x), magnitude = bits & 0x7FFFFFFFu;
    constexpr uint32_t kLeastNormal = 113u << 23;  // 2^-14; below it codes are 2^-17 apart
    const uint32_t normal = ((magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20) - (112u << 3);
    const uint32_t subnormal = ptx::BitsOfFloat(ptx::FloatOfBits(magnitude) + 64.0f) - 0x42800000u;
    const uint32_t code = magnitude < kLeastNormal ? subnormal : normal;
    return static_cast<uint8_t>(code | bits >> 31 << 7);
  }
  template <class Half>
  static constexpr float kUnit = Half::kIsF16 ? 0x1p-8f : 1.0f;

  template <class Half>
  static __device__ __forceinline__ void Widen(uint32_t codes, uint32_t (&pairs)[2]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t bytes = ptx::BytePermute(codes, 0, i == 0 ? 0x1404u : 0x3424u);
      const uint32_t sign = bytes & 0x80008000u;
      if constexpr (Half::kIsF16) {
        pairs[i] = ptx::Lop3<kAndOr>(bytes >> 1, 0x3F803F80u, sign);
      } else {
        const uint32_t tiny = ptx::Lop3<kAndOr>(bytes >> 4, 0x07F007F0u, sign);  // times 2^-120
        pairs[i] = ptx::FmaBf16x2(tiny, 0x7B807B80u, 0x80008000u);
      }
    }
  }
};

}  // namespace nibble::cuda

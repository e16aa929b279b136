// What a cache's elements are: 16-bit floats as they come, or 8-bit codes with a scale for each
// position and head, which are widened to 16 bits, exactly, before they enter an mma. A widened
// code reads as its value times kUnit.
//
// Widen takes four codes of a register, number 0 in the lowest byte, to pairs of codes 0, 1 and 2,
// 3; or, where kApart, of 0, 2 and 1, 3. Instructions a pair, f16 and bf16: int8 2.5 and 4, e4m3 3
// and 4. Unpack does the same, to values times kUnpackedUnit: where a device has an instruction for
// that, 1 a pair, and half of one more where kApart.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"

namespace nibble::cuda {

struct HalfCodes {
  static constexpr bool kScaled = false;
};

// Two's complement. As an f16 of exponent 10, 1024 + 128 + code; a bf16 has bits for 7 of the 8
// only: the low ones, less 128 where the sign is set.
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

  template <class Half, bool kApart = false>
  static __device__ __forceinline__ void Widen(uint32_t codes, uint32_t (&pairs)[2]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
    constexpr uint32_t kSelectors[2] = {kApart ? 0x4240u : 0x4140u, kApart ? 0x4341u : 0x4342u};
    if constexpr (Half::kIsF16) codes ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (Half::kIsF16) {
        const uint32_t lifted = ptx::BytePermute(codes, 0x64646464u, kSelectors[i]);
        pairs[i] = ptx::FmaF16x2(lifted, 0x20002000u, 0xC880C880u);  // times 2^-7, less 9
      } else {
        const uint32_t bytes = ptx::BytePermute(codes, 0, kSelectors[i]);
        const uint32_t low = ptx::Lop3<kAndOr>(bytes, 0x007F007Fu, 0x43004300u);   // 128 + low
        const uint32_t sign = ptx::Lop3<kAndOr>(bytes, 0x00800080u, 0xC300C300u);  // -128 or -256
        pairs[i] = ptx::FmaBf16x2(low, Half::kOnes, sign);
      }
    }
  }

  template <class Half>
  static constexpr float kUnpackedUnit = kUnit<Half>;
  template <class Half, bool kApart = false>
  static __device__ __forceinline__ void Unpack(uint32_t codes, uint32_t (&pairs)[2]) {
    Widen<Half, kApart>(codes, pairs);
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

  template <class Half, bool kApart = false>
  static __device__ __forceinline__ void Widen(uint32_t codes, uint32_t (&pairs)[2]) {
    constexpr uint32_t kSelectors[2] = {kApart ? 0xA280u : 0x9180u, kApart ? 0xB391u : 0xB3A2u};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t extended = ptx::BytePermute(codes, 0, kSelectors[i]);  // by their signs
      if constexpr (Half::kIsF16) {
        pairs[i] = extended << 7 & 0xBF80BF80u;
      } else {
        const uint32_t tiny = extended << 4 & 0x87F087F0u;  // times 2^-120
        pairs[i] = ptx::FmaBf16x2(tiny, 0x7B807B80u, 0x80008000u);
      }
    }
  }

  template <class Half>
  static constexpr float kUnpackedUnit = 1;
  template <class Half, bool kApart = false>
  static __device__ __forceinline__ void Unpack(uint32_t codes, uint32_t (&pairs)[2]) {
    if constexpr (Half::kIsF16) {
      if constexpr (kApart) codes = ptx::BytePermute(codes, 0, 0x3120u);
      pairs[0] = ptx::E4m3ToF16x2<false>(codes);
      pairs[1] = ptx::E4m3ToF16x2<true>(codes);
    } else {
      Widen<Half, kApart>(codes, pairs);
    }
  }
};

}  // namespace nibble::cuda

// Codes of a weight, as a lane loads them from a tile (tiled_layout.h), to the four registers of an
// mma's A operand: one policy a kind of code.
//
//   kKind        which of TiledCodes
//   kTileCols    columns of its tiles
//   kLeastGroup  columns that the narrowest group has
//   kUnit<Half>  what a decoded code must be multiplied with to be the code's value
//   Decode       for the mma number `step` of the 16 bytes that were loaded
#pragma once

#include <cstdint>

#include "kernels/cuda/cache_codes.cuh"
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/tiled_layout.h"

namespace nibble::cuda {
namespace {

// Of a matrix, the same for all of its codes.
struct CodeConstants {
  uint32_t minus_base;   // kInt4, kInt8: minus what a code is offset by in its 16-bit float, twice
  uint32_t minus_upper;  // kInt4 in f16: the same of a code 4 bits higher, after a 16th
  uint32_t table[2][4];  // kLut4: the low bytes of the 16 entries, and the high ones
};

// code - zero, exact. `minus_base` is -(Half::kCodeBase + zero), twice. An f16 has the bits for a
// code that lies 4 bits higher, where it counts 16 times; so every second one needs no shift.
template <class Half>
__device__ __forceinline__ void DecodeIntegers(uint32_t word, const CodeConstants& constants,
                                               uint32_t (&a)[4]) {
  constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
  constexpr uint32_t kSixteenths = 0x2C002C00u;  // in f16
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (Half::kIsF16 && i % 2 != 0) {
      const uint32_t codes = ptx::Lop3<kAndOr>(word >> (4 * i - 4), 0x00F000F0u, Half::kCodeBits);
      a[i] = Half::Fma(codes, kSixteenths, constants.minus_upper);
    } else {
      const uint32_t codes = ptx::Lop3<kAndOr>(word >> (4 * i), 0x000F000Fu, Half::kCodeBits);
      a[i] = Half::Fma(codes, Half::kOnes, constants.minus_base);
    }
  }
}

// The bytes, in a plane of 16, that four codes (nibbles 0 .. 3) name.
__device__ __forceinline__ uint32_t LookUp(const uint32_t (&plane)[4], uint32_t codes) {
  const uint32_t in_half = codes & 0x7777u;                      // bits 0 .. 2: which of 8 entries
  const uint32_t which_half = (codes >> 1 & 0x4444u) | 0x3210u;  // bit 3: of the lower or upper 8
  const uint32_t low = ptx::BytePermute(plane[0], plane[1], in_half);
  const uint32_t high = ptx::BytePermute(plane[2], plane[3], in_half);
  return ptx::BytePermute(low, high, which_half);
}

// table[code]: `planes` are the low bytes of its 16 entries, and the high ones.
__device__ __forceinline__ void DecodeTable(uint32_t word, const uint32_t (&planes)[2][4],
                                            uint32_t (&a)[4]) {
  // Of the lower, then the upper halves of the four registers: their low and their high bytes.
  const uint32_t low0 = LookUp(planes[0], word), low1 = LookUp(planes[1], word);
  const uint32_t high0 = LookUp(planes[0], word >> 16), high1 = LookUp(planes[1], word >> 16);
  const uint32_t low01 = ptx::BytePermute(low0, low1, 0x5140);
  const uint32_t low23 = ptx::BytePermute(low0, low1, 0x7362);
  const uint32_t high01 = ptx::BytePermute(high0, high1, 0x5140);
  const uint32_t high23 = ptx::BytePermute(high0, high1, 0x7362);
  a[0] = ptx::BytePermute(low01, high01, 0x5410);
  a[1] = ptx::BytePermute(low01, high01, 0x7632);
  a[2] = ptx::BytePermute(low23, high23, 0x5410);
  a[3] = ptx::BytePermute(low23, high23, 0x7632);
}

struct Int4Weights {
  static constexpr TiledCodes kKind = TiledCodes::kInt4;
  static constexpr int kTileCols = 128, kLeastGroup = 32;
  template <class Half>
  static constexpr float kUnit = 1;
  template <class Half>
  static __device__ __forceinline__ void Decode(const CodeConstants& constants,
                                                const uint32_t (&loaded)[4], int step,
                                                uint32_t (&a)[4]) {
    DecodeIntegers<Half>(loaded[step], constants, a);
  }
};

struct Lut4Weights {
  static constexpr TiledCodes kKind = TiledCodes::kLut4;
  static constexpr int kTileCols = 128, kLeastGroup = 32;
  template <class Half>
  static constexpr float kUnit = 1;
  template <class Half>
  static __device__ __forceinline__ void Decode(const CodeConstants& constants,
                                                const uint32_t (&loaded)[4], int step,
                                                uint32_t (&a)[4]) {
    DecodeTable(loaded[step], constants.table, a);
  }
};

// Stored as code + 128. An f16 below the byte 0x64 is 1024 + byte, and one FMA takes the rest off;
// a bf16 has 7 bits for it, so its sign bit goes the other way: low 7 bits, less 128 where it is 0.
struct Int8Weights {
  static constexpr TiledCodes kKind = TiledCodes::kInt8;
  static constexpr int kTileCols = 64, kLeastGroup = 16;
  template <class Half>
  static constexpr float kUnit = 1;
  template <class Half>
  static __device__ __forceinline__ void Decode(const CodeConstants& constants,
                                                const uint32_t (&loaded)[4], int step,
                                                uint32_t (&a)[4]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA, kNotAndOr = (0x0F & 0xCC) | 0xAA;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = loaded[2 * step + i / 2], pick = i % 2 == 0 ? 0x4140u : 0x4342u;
      if constexpr (Half::kIsF16) {
        a[i] =
            Half::Fma(ptx::BytePermute(word, 0x64646464u, pick), Half::kOnes, constants.minus_base);
      } else {
        const uint32_t bytes = ptx::BytePermute(word, 0, pick);
        const uint32_t low = ptx::Lop3<kAndOr>(bytes, 0x007F007Fu, Half::kCodeBits);  // 128 + low
        const uint32_t sign = ptx::Lop3<kNotAndOr>(bytes, 0x00800080u, 0xC300C300u);
        a[i] = Half::Fma(low, Half::kOnes, sign);  // less 128, or less 256
      }
    }
  }
};

// As cached keys and values are widened.
struct E4m3Weights {
  static constexpr TiledCodes kKind = TiledCodes::kE4m3;
  static constexpr int kTileCols = 64, kLeastGroup = 64;
  template <class Half>
  static constexpr float kUnit = 1.0f / E4m3Codes::kUnit<Half>;
  template <class Half>
  static __device__ __forceinline__ void Decode(const CodeConstants&, const uint32_t (&loaded)[4],
                                                int step, uint32_t (&a)[4]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t pairs[2];
      E4m3Codes::Widen<Half>(loaded[2 * step + i], pairs);
      a[2 * i] = pairs[0];
      a[2 * i + 1] = pairs[1];
    }
  }
};

// The upper byte of an f16; to a bf16, whose exponent's bias is 112 larger, its bits move down.
struct E5m2Weights {
  static constexpr TiledCodes kKind = TiledCodes::kE5m2;
  static constexpr int kTileCols = 64, kLeastGroup = 64;
  template <class Half>
  static constexpr float kUnit = 1;
  template <class Half>
  static __device__ __forceinline__ void Decode(const CodeConstants&, const uint32_t (&loaded)[4],
                                                int step, uint32_t (&a)[4]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = loaded[2 * step + i / 2];
      const uint32_t halves = ptx::BytePermute(word, 0, i % 2 == 0 ? 0x1404u : 0x3424u);
      if constexpr (Half::kIsF16) {
        a[i] = halves;
      } else {
        const uint32_t tiny =  // times 2^-112
            ptx::Lop3<kAndOr>(halves >> 3, 0x0FE00FE0u, halves & 0x80008000u);
        a[i] = Half::Fma(tiny, 0x77807780u, 0x80008000u);
      }
    }
  }
};

}  // namespace
}  // namespace nibble::cuda

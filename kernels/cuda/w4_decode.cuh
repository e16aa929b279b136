// Eight 4-bit codes, one word of w4_layout.h, to the four registers of an mma's A operand.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"

namespace nibble::cuda {
namespace {

// code - zero, exact. `minus_base` is -(Half::kCodeBase + zero), twice.
template <class Half>
__device__ __forceinline__ void DecodeIntegers(uint32_t word, uint32_t minus_base,
                                               uint32_t (&a)[4]) {
  constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t codes = ptx::Lop3<kAndOr>(word >> (4 * i), 0x000F000Fu, Half::kCodeBits);
    a[i] = Half::Fma(codes, Half::kOnes, minus_base);
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

}  // namespace
}  // namespace nibble::cuda

// A row's (or a block of columns') values as 8-bit codes with one scale: quantize_rows.h says which
// codes. Shared by the kernels that write them, so that they write the same bits.
#pragma once

#include <cstdint>

#include "kernels/cuda/cache_codes.cuh"
#include "kernels/cuda/row_block.cuh"

namespace nibble::cuda {
namespace {

constexpr float kLeastMagnitude = 1e-30f;

struct RowCodesShared {
  SumsOfWarps sums;  // of a norm
  float largest[kWarps];
};

// The larger of two magnitudes' bits; those of an infinity and of NaN are above all others.
__device__ __forceinline__ uint32_t Larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

template <int kCols>
__device__ __forceinline__ uint32_t LargestOf(const float (&v)[kCols]) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kCols; ++i) largest = Larger(largest, ptx::BitsOfFloat(v[i]) & 0x7FFFFFFFu);
  return largest;
}

// Of the `lanes` neighbours that share a scale.
template <int kLanes>
__device__ __forceinline__ uint32_t LargestOfLanes(uint32_t largest) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
    largest = Larger(largest, ptx::ShuffleXor(largest, lanes));
  return largest;
}

__device__ __forceinline__ uint32_t LargestOfBlock(uint32_t largest) {
  float(&of_warps)[kWarps] = SharedMemory<RowCodesShared>().largest;
  largest = LargestOfLanes<32>(largest);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = ptx::FloatOfBits(largest);
  ptx::SyncThreads();
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp)
    largest = Larger(largest, ptx::BitsOfFloat(of_warps[warp]));
  return largest;
}

struct CodeScale {
  float scale, inverse;  // to Codes::Encode's argument
};
template <class Codes>
__device__ __forceinline__ CodeScale ScaleOf(uint32_t largest_bits) {
  const float largest = ptx::FloatOfBits(largest_bits);
  if (largest_bits >= 0x7F800000u) return {ptx::FloatOfBits(0x7FC00000u), 0};
  if (largest < kLeastMagnitude) return {0, 0};
  return {largest / Codes::kLargest, Codes::kLargest * Codes::kEncodeUnit / largest};
}

// Four codes, the first in the lowest byte.
template <class Codes>
__device__ __forceinline__ uint32_t FourCodes(const float* v, float inverse) {
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = inverse == 0 ? 0 : Codes::Encode(ptx::Multiply(v[i], inverse));
    word |= code << (i * 8);
  }
  return word;
}

}  // namespace
}  // namespace nibble::cuda

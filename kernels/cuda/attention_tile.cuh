// The two products with a tile of cached positions (attention_pages.cuh). Decode and prefill take
// their arithmetic from here and from attention_columns.cuh, and in one order, so that a row's bits
// do not depend on which of the two computed it.
//
// Positions (or dimensions of v) are the 16-row operand of mma m16n8k16 and query columns its 8
// columns. A column is one query head of one row, and nothing of one column enters another.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_pages.cuh"
#include "kernels/cuda/half_type.cuh"

namespace nibble::cuda {
namespace {

constexpr int kSteps = kTile / 16;  // mmas that cover a tile
constexpr int kColumns = 8;         // of an mma
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kNever = -__builtin_inff();

// The address of chunk `chunk` ahead of the one whose address is `base`, in the same row: constants
// go into the instruction, so that a lane keeps one address for all of a tile. REQUIRES that the
// chunks' numbers have no bit in common, and rows that begin at multiples of 128 bytes (64 for 32
// dimensions).
__device__ __forceinline__ uint32_t ChunkAhead(uint32_t base, int chunk) {
  return (base ^ static_cast<uint32_t>(chunk % 8 * 16)) + static_cast<uint32_t>(chunk / 8 * 128);
}

// q of 8 columns and 32 dimensions, from 32 * part on, as the B operand of two mmas. `q` holds
// columns as rows of ChunkOf, these from first_column on.
template <int kDim>
__device__ __forceinline__ void LoadQuery(const uint16_t* q, int first_column, int part,
                                          uint32_t (&out)[2][2]) {
  const int lane = ptx::ThreadIndex() % 32;
  const uint32_t base = ptx::SharedAddress(q + ChunkOf<kDim>(first_column + lane % 8, lane / 8));
  uint32_t m[4];
  ptx::LoadMatrix4(m, ChunkAhead(base, part * 4));
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i / 2][i % 2] = m[i];
}

// scores += k * q of 16 positions for kTiles times 8 columns, over those 32 dimensions.
template <class Half, int kDim, int kTiles>
__device__ __forceinline__ void Score(const uint16_t* k, int first_row, int part,
                                      const uint32_t (&q)[kTiles][2][2],
                                      float (&scores)[kTiles][4]) {
  const int lane = ptx::ThreadIndex() % 32;
  const uint32_t base = ptx::SharedAddress(k + ChunkOf<kDim>(lane % 16, lane / 16)) +
                        static_cast<uint32_t>(first_row * kDim * 2);
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t a[4];
    ptx::LoadMatrix4(a, ChunkAhead(base, part * 4 + step * 2));
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) Half::Mma(scores[tile], a, q[tile][step]);
  }
}

// Of 8-bit codes a lane has four neighbours of a row, where of 16-bit values it has two and two: so
// of every 16 dimensions the first product of codes takes 0, 1, 4, 5, 8, 9 .. as the first half of
// its sum, and the others as the second. This puts q in that order, in place. REQUIRES a barrier
// before and after, and `columns` a multiple of 8.
template <int kDim, int kThreads>
__device__ __forceinline__ void InterleaveQuery(uint16_t* q, int columns) {
  constexpr int kPairs = kDim / 16;
  for (int i = threadIdx.x; i < columns * kPairs; i += kThreads) {
    const int column = i / (8 * kPairs) * 8 + i % 8, pair = i / 8 % kPairs;
    const uint32_t first = ptx::SharedAddress(q + ChunkOf<kDim>(column, pair * 2));
    const uint32_t second = ptx::SharedAddress(q + ChunkOf<kDim>(column, pair * 2 + 1));
    const uint4 a = ptx::LoadShared16(first), b = ptx::LoadShared16(second);
    ptx::StoreShared16(first, {a.x, a.z, b.x, b.z});
    ptx::StoreShared16(second, {a.y, a.w, b.y, b.w});
  }
}

// Score of codes, times kUnpackedUnit, which are widened in registers: where one warp alone reads
// them. q interleaved.
template <class Half, class Codes, int kDim>
__device__ __forceinline__ void ScoreCodes(const uint8_t* k, int first_row, int part,
                                           const uint32_t (&q)[2][2], float (&scores)[4]) {
  const int lane = ptx::ThreadIndex() % 32;
  const uint32_t base = ptx::SharedAddress(k + CodeChunkOf<kDim>(lane % 16, lane / 16)) +
                        static_cast<uint32_t>(first_row * kDim);
  uint32_t codes[4];  // of rows g and g + 8: of 16 dimensions, and of the next
  ptx::LoadMatrix4(codes, ChunkAhead(base, part * 2));
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    uint32_t upper[2], lower[2];
    Codes::template Unpack<Half>(codes[step * 2], upper);
    Codes::template Unpack<Half>(codes[step * 2 + 1], lower);
    const uint32_t a[4] = {upper[0], lower[0], upper[1], lower[1]};
    Half::Mma(scores, a, q[step]);
  }
}

// In units of log2; -infinity for what lies past a column's length. `left` is how many of the 16
// positions the lane's columns 2t and 2t + 1, with t = lane % 4, see; it may be any number.
// `scales`, where k is scaled, are those of the 16 positions.
template <bool kScaled>
__device__ __forceinline__ void Mask(const int (&left)[2], float scale, const float* scales,
                                     float (&scores)[4]) {
  const int row = ptx::ThreadIndex() % 32 / 4;
  float scale_of[2] = {scale, scale};
#pragma unroll
  for (int i = 0; i < 2 && kScaled; ++i) scale_of[i] = ptx::Multiply(scale, scales[row + i * 8]);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[i] = row + i / 2 * 8 < left[i % 2] ? ptx::Multiply(scores[i], scale_of[i / 2]) : kNever;
  }
}

// What a code's value is multiplied by when it is widened, and unpacked.
template <class Half, class Codes>
__device__ __forceinline__ constexpr float UnitOf() {
  if constexpr (Codes::kScaled) {
    return Codes::template kUnit<Half>;
  } else {
    return 1;
  }
}

template <class Half, class Codes>
__device__ __forceinline__ constexpr float UnpackedUnitOf() {
  if constexpr (Codes::kScaled) {
    return Codes::template kUnpackedUnit<Half>;
  } else {
    return 1;
  }
}

// Weights become those of codes: times the 16 positions' scales and `unit`, 1 / UnitOf.
template <int kTiles>
__device__ __forceinline__ void ScaleWeights(const float* scales, float unit,
                                             float (&weights)[kTiles][4]) {
  const int row = ptx::ThreadIndex() % 32 / 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float scale = ptx::Multiply(scales[row + i / 2 * 8], unit);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      weights[tile][i] = ptx::Multiply(weights[tile][i], scale);
  }
}

// Weights of 16 positions and 8 columns as two 16-bit halves, so that they are exact to 2^-16, each
// the B operand of an mma.
template <class Half>
__device__ __forceinline__ void SplitWeights(const float (&weights)[4], uint32_t (&high)[2],
                                             uint32_t (&low)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float a = weights[2 * i], b = weights[2 * i + 1];
    const uint32_t pair = Half::Pack(a, b);
    high[i] = ptx::TransposeMatrix(pair);
    low[i] = ptx::TransposeMatrix(Half::Pack(a - Half::Low(pair), b - Half::High(pair)));
  }
}

// out += v^T * weights for 16 positions, of the 16 * kRows dimensions from first_dim on.
template <class Half, int kDim, int kRows, int kTiles>
__device__ __forceinline__ void AddValues(const uint16_t* v, int first_row, int first_dim,
                                          const float (&weights)[kTiles][4],
                                          float (&out)[kTiles][kRows][4]) {
  const int lane = threadIdx.x % 32;
  uint32_t high[kTiles][2], low[kTiles][2];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    SplitWeights<Half>(weights[tile], high[tile], low[tile]);
  const uint32_t base =
      ptx::SharedAddress(v + ChunkOf<kDim>(lane / 16 * 8 + lane % 8, lane / 8 % 2)) +
      static_cast<uint32_t>(first_row * kDim * 2);
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    uint32_t a[4];
    ptx::LoadMatrix4Transposed(a, ChunkAhead(base, first_dim / 8 + m * 2));
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      Half::Mma(out[tile][m], a, high[tile]);
      Half::Mma(out[tile][m], a, low[tile]);
    }
  }
}

// AddValues of codes for a whole tile, times kUnpackedUnit, in the same order of sums. A lane has
// two dimensions of two positions, so that row g of `out` is dimension 2g of its 16, and row g + 8
// dimension 2g + 1. `weights` is the shared address of the lane's operands of step 0, high and low,
// 16 bytes, those of a step 512 bytes after those of the one before.
template <class Half, class Codes, int kDim, int kRows>
__device__ __forceinline__ void AddCodes(const uint8_t* v, int first_dim, uint32_t weights,
                                         float (&out)[kRows][4]) {
  static_assert(kRows == 1 || kRows == 2);
  const int lane = ptx::ThreadIndex() % 32;
  // Four matrices of 8 positions and 16 dimensions: two and two, or four and one.
  const int row = kRows == 2 ? lane % 16 : lane, chunk = first_dim / 16 + lane / 16 * (kRows - 1);
  const uint32_t base = ptx::SharedAddress(v + CodeChunkOf<kDim>(row, chunk));
#pragma unroll
  for (int first = 0; first < kSteps; first += 3 - kRows) {
    uint32_t codes[4];
    ptx::LoadMatrix4Transposed(codes, base + static_cast<uint32_t>(first * 16 * kDim));
    uint32_t high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int step = kRows == 2 ? first : first + i;
      if (step == first + i) {
        const uint4 split = ptx::LoadShared16(weights + static_cast<uint32_t>(step * 512));
        high[0] = split.x, high[1] = split.y;
        low[0] = split.z, low[1] = split.w;
      }
      uint32_t before[2], after[2];  // of 8 positions, and of the next
      Codes::template Unpack<Half, true>(codes[i * 2], before);
      Codes::template Unpack<Half, true>(codes[i * 2 + 1], after);
      const uint32_t a[4] = {before[0], before[1], after[0], after[1]};
      Half::Mma(out[i * (kRows - 1)], a, high);
      Half::Mma(out[i * (kRows - 1)], a, low);
    }
  }
}

}  // namespace
}  // namespace nibble::cuda

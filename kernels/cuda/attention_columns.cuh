// The running results of 8 query columns in the registers of a warp: online softmax (arXiv
// 1805.02867) over tiles of 64 positions, the fold of splits, and the store. Shared by decode and
// prefill, like attention_tile.cuh.
//
// The order of a column's sums, whoever computes it: within a tile, lane g of 8 adds positions
// (g, g + 8), (g + 16, g + 24) ..; tiles ascending within a split of 256; the 8 lanes pairwise;
// splits ascending.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tile.cuh"

namespace nibble::cuda {
namespace {

__device__ __forceinline__ float MaxOfPositions(float x) {
#pragma unroll
  for (int lanes = 4; lanes < 32; lanes *= 2) {
    const float other = ptx::ShuffleXor(x, lanes);
    x = other > x ? other : x;
  }
  return x;
}

// What exponents are taken relative to: the maximum, where there is one yet.
__device__ __forceinline__ float BaseOf(float max) { return max == kNever ? 0.0f : max; }

// Of columns 2t and 2t + 1, with t = lane % 4; `out` is of kTiles times 8 columns and 16 * kRows
// dimensions.
template <int kTiles, int kRows>
struct Running {
  float max[kTiles][2];
  float sum[kTiles][2];  // of this lane's positions, until SumLanes
  float out[kTiles][kRows][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        max[tile][i] = kNever;
        sum[tile][i] = 0;
      }
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][m][i] = 0;
      }
    }
  }

  // Turns a tile's scores into weights relative to the new maximum, and shrinks what is there.
  __device__ __forceinline__ void Weigh(float (&scores)[kSteps][kTiles][4]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float shrink[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = kNever;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const float a = scores[step][tile][i], b = scores[step][tile][i + 2];
          const float larger = a > b ? a : b;
          top = larger > top ? larger : top;
        }
        top = MaxOfPositions(top);
        top = top > max[tile][i] ? top : max[tile][i];
        shrink[i] = ptx::Exp2(max[tile][i] - BaseOf(top));
        max[tile][i] = top;
        float added = 0;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          float& a = scores[step][tile][i];
          float& b = scores[step][tile][i + 2];
          a = ptx::Exp2(a - BaseOf(top));
          b = ptx::Exp2(b - BaseOf(top));
          added += a + b;
        }
        sum[tile][i] = ptx::Fma(sum[tile][i], shrink[i], added);
      }
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][m][i] = ptx::Multiply(out[tile][m][i], shrink[i % 2]);
      }
    }
  }

  // What Weigh does but for scores and sum, where the largest scores of 8 columns are known.
  __device__ __forceinline__ void Raise(const float (&tops)[2], float (&shrink)[2]) {
    static_assert(kTiles == 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float top = ptx::Max(tops[i], max[0][i]);
      shrink[i] = ptx::Exp2(max[0][i] - BaseOf(top));
      max[0][i] = top;
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[0][m][i] = ptx::Multiply(out[0][m][i], shrink[i % 2]);
    }
  }

  // Makes `sum` that of all positions, in every lane.
  __device__ __forceinline__ void SumLanes() {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2)
          sum[tile][i] += ptx::ShuffleXor(sum[tile][i], lanes);
      }
    }
  }

  __device__ __forceinline__ void Multiply(float factor) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[tile][m][i] = ptx::Multiply(out[tile][m][i], factor);
      }
    }
  }

  // Adds the next split, after its SumLanes; exact where either has seen no position.
  __device__ __forceinline__ void Fold(const Running& part) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      float mine[2], others[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float a = max[tile][i], b = part.max[tile][i], top = a > b ? a : b;
        mine[i] = ptx::Exp2(a - BaseOf(top));
        others[i] = ptx::Exp2(b - BaseOf(top));
        max[tile][i] = top;
        sum[tile][i] = ptx::Fma(sum[tile][i], mine[i], ptx::Multiply(part.sum[tile][i], others[i]));
      }
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          out[tile][m][i] = ptx::Fma(out[tile][m][i], mine[i % 2],
                                     ptx::Multiply(part.out[tile][m][i], others[i % 2]));
        }
      }
    }
  }

  // Writes out / sum of a tile's columns, a whole sector a column and instruction. `to` is where
  // dimension 0 of column lane / 4 goes, null for a column that nobody asked for. kInterleaved:
  // what AddCodes summed up. Whole warps.
  template <class Half, bool kInterleaved>
  __device__ __forceinline__ void Store(int tile, int first_dim, uint16_t* to) const {
    const int t = static_cast<int>(threadIdx.x) % 4;
    const bool is_odd = t % 2 != 0;
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const float(&x)[4] = out[tile][m];
      // Lane (g, t) then has rows 2t, 2t + 1 of column g: of the first 8 and of the others.
      const uint32_t first =
          ptx::TransposeMatrix(Half::Pack(x[0] / sum[tile][0], x[1] / sum[tile][1]));
      const uint32_t second =
          ptx::TransposeMatrix(Half::Pack(x[2] / sum[tile][0], x[3] / sum[tile][1]));
      if constexpr (kInterleaved) {
        const uint2 four = {ptx::BytePermute(first, second, 0x5410u),
                            ptx::BytePermute(first, second, 0x7632u)};
        if (to != nullptr) ptx::StoreGlobal8(to + first_dim + m * 16 + t * 4, four);
        continue;
      }
      const uint32_t others = ptx::ShuffleXor(is_odd ? first : second, 1);
      const uint2 four = is_odd ? uint2{others, second} : uint2{first, others};
      if (to != nullptr)
        ptx::StoreGlobal8(to + first_dim + m * 16 + (is_odd ? 8 : 0) + t / 2 * 4, four);
    }
  }
};

}  // namespace
}  // namespace nibble::cuda

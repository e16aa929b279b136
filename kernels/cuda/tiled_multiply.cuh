// What a block of the tiled linear multiplies of a stage: products of warps, scaled group by group.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_params.cuh"

namespace nibble::cuda {
namespace {

// The scales (or offsets) of this lane's rows g and g + 8, from a tile's values in shared memory.
template <class V>
__device__ __forceinline__ float2 ValuePair(const uint8_t* values, int index) {
  if constexpr (V::kScales == TiledScales::kBlock) {
    const float value = *reinterpret_cast<const float*>(values);
    return {value, value};
  } else if constexpr (V::kScales == TiledScales::kF32) {
    return *reinterpret_cast<const float2*>(values + index * 4);
  } else {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(values + index * 2);
    return {F16::Low(pair), F16::High(pair)};
  }
}

template <class V>
using Sums = float[V::kWTiles][V::kTiles][4];  // a warp's mma accumulators

template <class V>
__device__ __forceinline__ void Clear(Sums<V>& sums) {
#pragma unroll
  for (auto& row : sums) {
#pragma unroll
    for (auto& four : row) four[0] = four[1] = four[2] = four[3] = 0;
  }
}

// all += scale * part, all += offset * (the group's sums of x); part = 0, but of warp groups, whose
// next product is no sum.
template <class V>
__device__ __forceinline__ void CloseGroup(const Params& p, const uint8_t* stage, int group_in_tile,
                                           Sums<V>& part, Sums<V>& all) {
  const int lane = threadIdx.x % 32;
  const uint8_t* tile = stage + V::kXStageBytes;
  const auto* sums =
      reinterpret_cast<const float*>(tile + p.tile_bytes) + group_in_tile * V::kRows + lane % 4 * 2;
  constexpr float kUnit = V::Codes::template kUnit<typename V::Half>;
#pragma unroll
  for (int m = 0; m < V::kWTiles; ++m) {
    const int index = TileScaleIndex((FirstWTile<V>() + m) * kWTileRows + lane / 4, group_in_tile);
    float2 scale = ValuePair<V>(tile + kTileCodeBytes, index);
    if constexpr (kUnit != 1) scale = {scale.x * kUnit, scale.y * kUnit};
    float2 offset = {};
    if constexpr (V::kOffsets) offset = ValuePair<V>(tile + kTileCodeBytes + p.scale_bytes, index);
#pragma unroll
    for (int n = 0; n < V::kTiles; ++n) {
      float(&to)[4] = all[m][n];
      float(&from)[4] = part[m][n];
      to[0] += scale.x * from[0];
      to[1] += scale.x * from[1];
      to[2] += scale.y * from[2];
      to[3] += scale.y * from[3];
      if constexpr (V::kOffsets) {
        const float2 sum = *reinterpret_cast<const float2*>(sums + n * kRowTileOfX);
        to[0] += offset.x * sum.x;
        to[1] += offset.x * sum.y;
        to[2] += offset.y * sum.x;
        to[3] += offset.y * sum.y;
      }
      if constexpr (!V::kGroups) from[0] = from[1] = from[2] = from[3] = 0;
    }
  }
}

// The group that ends with this tile's column `end`, if one does.
template <class V>
__device__ __forceinline__ void CloseGroupAt(const Params& p, const uint8_t* stage, int end,
                                             Sums<V>& part, Sums<V>& all) {
  if constexpr (!V::kRowScales) {
    if (end % V::Codes::kLeastGroup != 0 || (end & (p.group - 1)) != 0) return;
    CloseGroup<V>(p, stage, (end >> p.group_shift) - 1, part, all);
  }
}

// 32 columns: two mma along k for each of the warp's tiles. `step` is the first of them among those
// of `loaded`.
template <class V>
__device__ __forceinline__ void MultiplyColumns(const Params& p, const uint8_t* stage, int first,
                                                const uint32_t (&loaded)[V::kWTiles][4], int step,
                                                Sums<V>& part, Sums<V>& all) {
  const int lane = threadIdx.x % 32;
  const uint32_t x_stage = ptx::SharedAddress(stage);
  uint32_t b[V::kTiles][4];
#pragma unroll
  for (int n = 0; n < V::kTiles; ++n) {
    const int row = n * kRowTileOfX + lane % 8;
    ptx::LoadMatrix4(b[n], x_stage + XChunk<V>(row, first / 8 + lane / 8));
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int m = 0; m < V::kWTiles; ++m) {
      uint32_t a[4];
      V::Codes::template Decode<typename V::Half>(p.codes, loaded[m], step + k, a);
#pragma unroll
      for (int n = 0; n < V::kTiles; ++n) {
        const uint32_t pair[2] = {b[n][2 * k], b[n][2 * k + 1]};
        V::Half::Mma(part[m][n], a, pair);
      }
    }
    CloseGroupAt<V>(p, stage, first + 16 * (k + 1), part, all);
  }
}

template <class V>
__device__ __forceinline__ void MultiplyTile(const Params& p, const uint8_t* stage, Sums<V>& part,
                                             Sums<V>& all) {
  constexpr int kLoadCols = V::kCols / 2;  // of one load of 16 bytes
  const int lane = threadIdx.x % 32;
  const uint32_t codes = ptx::SharedAddress(stage) + V::kXStageBytes;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t loaded[V::kWTiles][4];
#pragma unroll
    for (int m = 0; m < V::kWTiles; ++m) {
      const int load = (FirstWTile<V>() + m) * 2 + half;
      const uint4 v = ptx::LoadShared16(codes + (load * 32 + lane) * 16);
      loaded[m][0] = v.x;
      loaded[m][1] = v.y;
      loaded[m][2] = v.z;
      loaded[m][3] = v.w;
    }
#pragma unroll
    for (int col = 0; col < kLoadCols; col += 32) {
      MultiplyColumns<V>(p, stage, half * kLoadCols + col, loaded, col / 16, part, all);
    }
  }
}

}  // namespace
}  // namespace nibble::cuda

// How a block of the tiled linear ends a row of tiles: parts added, and rows of y written.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_multiply.cuh"

namespace nibble::cuda {
namespace {

// One of the cut's, by its tiles.
struct Stretch {
  __device__ __forceinline__ Stretch(const Params& p, int n)
      : number(n), begin(p.cut.BeginOf(n)), end(p.cut.BeginOf(n + 1)) {}
  int number, begin, end;
};

// Where the tiles of this block's stretches end.
template <class V>
__device__ __forceinline__ int EndOfBlock(const Params& p) {
  const int next = (static_cast<int>(blockIdx.y) + 1) * V::kStretches;
  return p.cut.BeginOf(next < p.cut.stretches ? next : p.cut.stretches);
}

// Where a stretch's part of a row of tiles lies among the parts: it begins, or ends, at most one
// row that it does not have whole.
__device__ __forceinline__ int SlotOf(const Params& p, const Stretch& stretch, int row_tile) {
  return 2 * stretch.number + (stretch.begin >= row_tile * p.cut.col_tiles ? 0 : 1);
}

// all = the sum of parts of a row of tiles, in ascending order of columns. Several are on their way
// at once, since each comes from L2.
template <class V>
__device__ __forceinline__ void AddParts(const Params& p, const float4* parts, int row_tile,
                                         int first, int last, Sums<V>& all) {
  constexpr int kFours = V::kWTiles * V::kTiles, kLoads = V::kTiles == 16 ? 32 : 8;
  constexpr int kAtOnce = kFours < kLoads ? kLoads / kFours : 1;
  Clear<V>(all);
  for (; first <= last; first += kAtOnce) {
    uint4 bits[kAtOnce][kFours] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i > last) break;
      const float4* part =
          parts + SlotOf(p, Stretch(p, first + i), row_tile) * kFours * V::kThreads;
#pragma unroll
      for (int four = 0; four < kFours; ++four)
        bits[i][four] = ptx::LoadGlobal16(part + four * V::kThreads);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce * kFours; ++i) {
      if (first + i / kFours > last) break;
      float(&sum)[4] = all[i % kFours / V::kTiles][i % V::kTiles];
      const uint4& part = bits[i / kFours][i % kFours];
      sum[0] += ptx::FloatOfBits(part.x);
      sum[1] += ptx::FloatOfBits(part.y);
      sum[2] += ptx::FloatOfBits(part.z);
      sum[3] += ptx::FloatOfBits(part.w);
    }
  }
}

// By one thread once the block's part is stored: whether all of a row's parts are there, which are
// those of stretches first .. last.
__device__ __forceinline__ bool IsLastPart(const Params& p, int row_tile, int first, int last) {
  uint32_t* counter = p.counters + static_cast<int>(blockIdx.x) * p.cut.row_tiles + row_tile;
  ptx::Fence();
  if (ptx::AtomicAdd(counter, 1) != static_cast<uint32_t>(last - first)) return false;
  ptx::Fence();
  *counter = 0;
  return true;
}

// A stretch's part of a row of tiles goes to the workspace; the last block to bring one takes the
// sum of all. False for the others. Each part where its tiles end: kept for the block's end, all
// would be written and added when no block multiplies any more. The stage's reads are over after a
// barrier.
template <class V>
__device__ __forceinline__ bool SumParts(const Params& p, const Stretch& stretch, int row_tile,
                                         uint8_t* stage, Sums<V>& all) {
  constexpr int kFours = V::kWTiles * V::kTiles;
  const auto along_x = static_cast<int64_t>(blockIdx.x);
  auto* parts = reinterpret_cast<float4*>(p.parts) +
                along_x * 2 * p.cut.stretches * kFours * V::kThreads + threadIdx.x;
  float4* mine = parts + SlotOf(p, stretch, row_tile) * kFours * V::kThreads;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const float(&part)[4] = all[i / V::kTiles][i % V::kTiles];
    const uint4 bits = {ptx::BitsOfFloat(part[0]), ptx::BitsOfFloat(part[1]),
                        ptx::BitsOfFloat(part[2]), ptx::BitsOfFloat(part[3])};
    ptx::StoreGlobal16(mine + i * V::kThreads, bits);
  }
  const int first = p.cut.StretchOf(row_tile * p.cut.col_tiles),
            last = p.cut.StretchOf((row_tile + 1) * p.cut.col_tiles - 1);
  auto* is_last = reinterpret_cast<uint32_t*>(stage);
  ptx::SyncThreads();
  if (threadIdx.x == 0) *is_last = IsLastPart(p, row_tile, first, last) ? 1 : 0;
  ptx::SyncThreads();
  if (*is_last == 0) return false;
  AddParts<V>(p, parts, row_tile, first, last, all);
  return true;
}

// y[at], as it was.
template <class V>
__device__ __forceinline__ float OldValue(const void* y, bool is_f32, int64_t at) {
  if (is_f32) return static_cast<const float*>(y)[at];
  return V::Half::ToFloat(static_cast<const uint16_t*>(y)[at]);
}

// Whether four neighbours can be stored at once.
__device__ __forceinline__ bool AreWhole(const void* y, int count, uintptr_t bytes) {
  return count == 4 && reinterpret_cast<uintptr_t>(y) % bytes == 0;
}

// Four neighbours of a row of y, rounded once.
template <class V>
__device__ __forceinline__ void StoreFour(const Params& p, const WeightParams& w, int row,
                                          int feature, float (&v)[4]) {
  const int64_t at = static_cast<int64_t>(row) * p.y_stride + feature;
  const int count = w.rows - feature < 4 ? w.rows - feature : 4;
  if constexpr (V::kRowScales) {
    constexpr float kUnit = V::Codes::template kUnit<typename V::Half>;
    const uint4 bits = ptx::LoadGlobal16(w.row_scales + feature);
    v[0] *= ptx::FloatOfBits(bits.x) * kUnit;
    v[1] *= ptx::FloatOfBits(bits.y) * kUnit;
    v[2] *= ptx::FloatOfBits(bits.z) * kUnit;
    v[3] *= ptx::FloatOfBits(bits.w) * kUnit;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count && w.bias != nullptr) v[i] += w.bias[feature + i];
    if (i < count && p.accumulate) v[i] += OldValue<V>(w.y, p.f32_y, at + i);
  }
  if (p.f32_y) {
    float* y = static_cast<float*>(w.y) + at;
    if (AreWhole(y, count, 16)) {
      const uint4 bits = {ptx::BitsOfFloat(v[0]), ptx::BitsOfFloat(v[1]), ptx::BitsOfFloat(v[2]),
                          ptx::BitsOfFloat(v[3])};
      ptx::StoreGlobal16(y, bits);
      return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) y[i] = v[i];
    }
    return;
  }
  uint16_t* y = static_cast<uint16_t*>(w.y) + at;
  const uint2 pairs = {V::Half::Pack(v[0], v[1]), V::Half::Pack(v[2], v[3])};
  if (AreWhole(y, count, 8)) {
    ptx::StoreGlobal8(y, pairs);
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count) y[i] = static_cast<uint16_t>((i < 2 ? pairs.x : pairs.y) >> (i % 2 * 16));
  }
}

// Through a stage of shared memory, as many rows of x at a time as it holds, so that a warp writes
// whole rows of y. The stage is free for all threads.
template <class V>
__device__ __forceinline__ void StoreTile(const Params& p, int row_tile, int first_row,
                                          uint8_t* stage, const Sums<V>& all) {
  const WeightParams& w = p.weights[WeightOf(p, row_tile)];
  const int thread = threadIdx.x, lane = thread % 32;
  auto* tile = reinterpret_cast<float*>(stage);
#pragma unroll
  for (int first = 0; first < V::kTiles; first += V::kTilesOfAStore) {
    ptx::SyncThreads();
#pragma unroll
    for (int m = 0; m < V::kWTiles; ++m) {
#pragma unroll
      for (int n = 0; n < V::kTilesOfAStore; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int feature = (FirstWTile<V>() + m) * kWTileRows + lane / 4 + i / 2 * 8,
                    row = n * kRowTileOfX + lane % 4 * 2 + i % 2;
          tile[row * kSumTileStride + feature] = all[m][first + n][i];
        }
      }
    }
    ptx::SyncThreads();
#pragma unroll
    for (int i = 0; i < V::kTilesOfAStore * kRowTileOfX * 32 / V::kThreads; ++i) {
      const int row = (i * V::kThreads + thread) / 32, feature = lane * 4;
      const int row_of_x = first_row + first * kRowTileOfX + row;
      const int feature_of_w = (row_tile - w.first_row_tile) * kTileRows + feature;
      if (row_of_x >= p.rows || feature_of_w >= w.rows) continue;
      const uint4 bits =
          ptx::LoadShared16(ptx::SharedAddress(tile + row * kSumTileStride + feature));
      float v[4] = {ptx::FloatOfBits(bits.x), ptx::FloatOfBits(bits.y), ptx::FloatOfBits(bits.z),
                    ptx::FloatOfBits(bits.w)};
      StoreFour<V>(p, w, row_of_x, feature_of_w, v);
    }
  }
}

// What the block has summed of the row of tiles that `tile` is the last one of in its stretch, to y
// where that has all of them, else to the parts. `stage` is what it was multiplied from, and is
// written to.
template <class V>
__device__ __forceinline__ void FinishRow(const Params& p, int tile, const Stretch& stretch,
                                          int first_row, uint8_t* stage, Sums<V>& all) {
  const int row_tile = tile / p.cut.col_tiles, first = row_tile * p.cut.col_tiles;
  const bool is_whole = stretch.begin <= first && tile + 1 == first + p.cut.col_tiles;
  if (!is_whole && !SumParts<V>(p, stretch, row_tile, stage, all)) return;
  StoreTile<V>(p, row_tile, first_row, stage, all);
}

}  // namespace
}  // namespace nibble::cuda

// The tiled linear's kernel, over the type of x and y and the kind of codes; tiled_start.cuh starts
// it.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_multiply.cuh"

namespace nibble::cuda {
namespace {

// This block's part goes to the workspace; the last block of the tile takes the sum of all, in
// ascending order of columns. False for the others.
template <class V>
__device__ __forceinline__ bool SumSplits(const WeightParams& w, const Piece& piece,
                                          uint8_t* shared, Sums<V>& all) {
  const int thread = threadIdx.x;
  const int tile = static_cast<int>(blockIdx.y) * w.row_tiles + piece.row_tile;
  constexpr int kFours = 2 * V::kTiles;
  auto* parts = reinterpret_cast<float4*>(w.partials) +
                static_cast<int64_t>(tile) * w.splits * kFours * kThreads;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const float(&part)[4] = all[i / V::kTiles][i % V::kTiles];
    const uint4 bits = {ptx::BitsOfFloat(part[0]), ptx::BitsOfFloat(part[1]),
                        ptx::BitsOfFloat(part[2]), ptx::BitsOfFloat(part[3])};
    ptx::StoreGlobal16(parts + (piece.split * kFours + i) * kThreads + thread, bits);
  }
  auto* is_last = reinterpret_cast<uint32_t*>(shared);
  ptx::SyncThreads();  // also: nobody reads the stages any more
  if (thread == 0) {
    ptx::Fence();
    *is_last = ptx::AtomicAdd(w.counters + tile, 1) == static_cast<uint32_t>(w.splits) - 1;
    ptx::Fence();
    if (*is_last != 0) w.counters[tile] = 0;
  }
  ptx::SyncThreads();
  if (*is_last == 0) return false;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    float(&sum)[4] = all[i / V::kTiles][i % V::kTiles];
    sum[0] = sum[1] = sum[2] = sum[3] = 0;
    for (int split = 0; split < w.splits; ++split) {
      const uint4 bits = ptx::LoadGlobal16(parts + (split * kFours + i) * kThreads + thread);
      sum[0] += ptx::FloatOfBits(bits.x);
      sum[1] += ptx::FloatOfBits(bits.y);
      sum[2] += ptx::FloatOfBits(bits.z);
      sum[3] += ptx::FloatOfBits(bits.w);
    }
  }
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

// Through shared memory, so that a warp writes whole rows of y.
template <class V>
__device__ __forceinline__ void StoreTile(const Params& p, const Piece& piece, float* tile,
                                          const Sums<V>& all) {
  const WeightParams& w = p.weights[piece.weight];
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < V::kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int feature = warp * 32 + m * 16 + lane / 4 + i / 2 * 8,
                  row = n * kRowTileOfX + lane % 4 * 2 + i % 2;
        tile[row * kSumTileStride + feature] = all[m][n][i];
      }
    }
  }
  ptx::SyncThreads();
#pragma unroll
  for (int i = 0; i < V::kRows * 32 / kThreads; ++i) {
    const int row = (i * kThreads + thread) / 32, feature = lane * 4;
    const int feature_of_w = piece.row_tile * kTileRows + feature;
    if (piece.first_row + row >= p.rows || feature_of_w >= w.rows) continue;
    const uint4 bits = ptx::LoadShared16(ptx::SharedAddress(tile + row * kSumTileStride + feature));
    float v[4] = {ptx::FloatOfBits(bits.x), ptx::FloatOfBits(bits.y), ptx::FloatOfBits(bits.z),
                  ptx::FloatOfBits(bits.w)};
    StoreFour<V>(p, w, piece.first_row + row, feature_of_w, v);
  }
}

// grid: (row tiles of W x splits of its columns of every matrix, runs of kRows rows of x)
template <class V>
__global__ void __launch_bounds__(kThreads, V::kBlocks)
    TiledKernel(const __grid_constant__ Params p) {
  uint8_t* shared = &SharedMemory<uint8_t>();
  const uint32_t stages = ptx::SharedAddress(shared);
  const Piece piece = PieceOfBlock<V>(p);
  Sums<V> part = {}, all = {};  // of a group, and of all (kRow: unscaled, without groups)
  LoadFirstStages<V>(p, piece, stages);
  for (int tile = piece.begin, stage = 0; tile < piece.end; ++tile) {
    ptx::WaitCopies<V::kStages - 2>();
    ptx::SyncThreads();  // everyone's copies are there, and nobody reads the stage that is filled
                         // next
    const int next = tile + V::kStages - 1, next_stage = stage == 0 ? V::kStages - 1 : stage - 1;
    if (next < piece.end) LoadStage<V>(p, piece, stages + next_stage * p.stage_bytes, next);
    ptx::CommitCopies();
    MultiplyTile<V>(p, shared + stage * p.stage_bytes, V::kRowScales ? all : part, all);
    stage = stage == V::kStages - 1 ? 0 : stage + 1;
  }
  ptx::WaitCopies<0>();
  const WeightParams& w = p.weights[piece.weight];
  if (w.splits > 1) {
    if (!SumSplits<V>(w, piece, shared, all)) return;
  }
  ptx::SyncThreads();
  StoreTile<V>(p, piece, reinterpret_cast<float*>(shared), all);
}

}  // namespace
}  // namespace nibble::cuda

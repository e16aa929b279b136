// The tiled linear's kernel, over the type of x and y and the kind of codes; tiled_linear_*.cu
// compile it.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_multiply.cuh"

namespace nibble::cuda {
namespace {

// This block's part goes to the workspace; the last block of the tile takes the sum of all, in
// ascending order of columns. False for the others.
template <class V>
__device__ __forceinline__ bool SumSplits(const Params& p, uint8_t* shared, Sums<V>& all) {
  const int thread = threadIdx.x, tile = blockIdx.y * gridDim.x + blockIdx.x;
  constexpr int kFours = 2 * V::kTiles;
  auto* parts = reinterpret_cast<float4*>(p.partials) +
                static_cast<int64_t>(tile) * p.splits * kFours * kThreads;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const float(&part)[4] = all[i / V::kTiles][i % V::kTiles];
    const uint4 bits = {ptx::BitsOfFloat(part[0]), ptx::BitsOfFloat(part[1]),
                        ptx::BitsOfFloat(part[2]), ptx::BitsOfFloat(part[3])};
    ptx::StoreGlobal16(parts + (blockIdx.z * kFours + i) * kThreads + thread, bits);
  }
  auto* is_last = reinterpret_cast<uint32_t*>(shared);
  ptx::SyncThreads();  // also: nobody reads the stages any more
  if (thread == 0) {
    ptx::Fence();
    *is_last = ptx::AtomicAdd(p.counters + tile, 1) == static_cast<uint32_t>(p.splits) - 1;
    ptx::Fence();
    if (*is_last != 0) p.counters[tile] = 0;
  }
  ptx::SyncThreads();
  if (*is_last == 0) return false;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    float(&sum)[4] = all[i / V::kTiles][i % V::kTiles];
    sum[0] = sum[1] = sum[2] = sum[3] = 0;
    for (int split = 0; split < p.splits; ++split) {
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
__device__ __forceinline__ float OldValue(const Params& p, int64_t at) {
  if (p.f32_y) return static_cast<const float*>(p.y)[at];
  return V::Half::ToFloat(static_cast<const uint16_t*>(p.y)[at]);
}

// Whether four neighbours can be stored at once.
__device__ __forceinline__ bool AreWhole(const void* y, int count, uintptr_t bytes) {
  return count == 4 && reinterpret_cast<uintptr_t>(y) % bytes == 0;
}

// Four neighbours of a row of y, rounded once.
template <class V>
__device__ __forceinline__ void StoreFour(const Params& p, int row, int feature, float (&v)[4]) {
  const int64_t at = static_cast<int64_t>(row) * p.y_stride + feature;
  const int count = p.w_rows - feature < 4 ? p.w_rows - feature : 4;
  if constexpr (V::kRowScales) {
    constexpr float kUnit = V::Codes::template kUnit<typename V::Half>;
    const uint4 bits = ptx::LoadGlobal16(p.row_scales + feature);
    v[0] *= ptx::FloatOfBits(bits.x) * kUnit;
    v[1] *= ptx::FloatOfBits(bits.y) * kUnit;
    v[2] *= ptx::FloatOfBits(bits.z) * kUnit;
    v[3] *= ptx::FloatOfBits(bits.w) * kUnit;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count && p.bias != nullptr) v[i] += p.bias[feature + i];
    if (i < count && p.accumulate) v[i] += OldValue<V>(p, at + i);
  }
  if (p.f32_y) {
    float* y = static_cast<float*>(p.y) + at;
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
  uint16_t* y = static_cast<uint16_t*>(p.y) + at;
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
__device__ __forceinline__ void StoreTile(const Params& p, float* tile, int first_row,
                                          const Sums<V>& all) {
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
    const int64_t feature_of_w = static_cast<int64_t>(blockIdx.x) * kTileRows + feature;
    if (first_row + row >= p.rows || feature_of_w >= p.w_rows) continue;
    const uint4 bits = ptx::LoadShared16(ptx::SharedAddress(tile + row * kSumTileStride + feature));
    float v[4] = {ptx::FloatOfBits(bits.x), ptx::FloatOfBits(bits.y), ptx::FloatOfBits(bits.z),
                  ptx::FloatOfBits(bits.w)};
    StoreFour<V>(p, first_row + row, static_cast<int>(feature_of_w), v);
  }
}

// grid: (row tiles of W, runs of kRows rows of x, splits of the columns)
template <class V>
__global__ void __launch_bounds__(kThreads, V::kBlocks) TiledKernel(const Params p) {
  uint8_t* shared = &SharedMemory<uint8_t>();
  const uint32_t stages = ptx::SharedAddress(shared);
  const int first_row = blockIdx.y * V::kRows;
  const int col_tiles = (p.w_cols + V::kCols - 1) / V::kCols;
  const int begin = static_cast<int>(blockIdx.z) * col_tiles / p.splits;
  const int end = (static_cast<int>(blockIdx.z) + 1) * col_tiles / p.splits;
  Sums<V> part = {}, all = {};  // of a group, and of all (kRow: unscaled, without groups)
  LoadFirstStages<V>(p, stages, first_row, begin, end);
  for (int tile = begin, stage = 0; tile < end; ++tile) {
    ptx::WaitCopies<V::kStages - 2>();
    ptx::SyncThreads();  // everyone's copies are there, and nobody reads the stage that is filled
                         // next
    const int next = tile + V::kStages - 1, next_stage = stage == 0 ? V::kStages - 1 : stage - 1;
    if (next < end) LoadStage<V>(p, stages + next_stage * p.stage_bytes, first_row, next);
    ptx::CommitCopies();
    MultiplyTile<V>(p, shared + stage * p.stage_bytes, V::kRowScales ? all : part, all);
    stage = stage == V::kStages - 1 ? 0 : stage + 1;
  }
  ptx::WaitCopies<0>();
  if (p.splits > 1) {
    if (!SumSplits<V>(p, shared, all)) return;
  }
  ptx::SyncThreads();
  StoreTile<V>(p, reinterpret_cast<float*>(shared), first_row, all);
}

// --- host

template <class Half>
CodeConstants ConstantsOf(const TiledLayout& layout) {
  CodeConstants constants = {};
  const int zero = layout.codes == TiledCodes::kInt8 ? 128 : layout.zero;
  const uint32_t base = Half::HostFromFloat(-(Half::kCodeBase + static_cast<float>(zero)));
  constants.minus_base = base | base << 16;
  for (int plane = 0; plane < 2; ++plane) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t byte = Half::HostFromFloat(layout.table[i]) >> (8 * plane) & 0xFF;
      constants.table[plane][i / 4] |= byte << (i % 4 * 8);
    }
  }
  return constants;
}

template <class Half>
Params ParamsOf(const TiledLinear& call) {
  const TiledLayout& layout = call.layout;
  Params p = {};
  p.weights = static_cast<const uint8_t*>(call.weights);
  p.row_scales = reinterpret_cast<const float*>(p.weights + RowScalesAt(layout));
  p.x = static_cast<const uint16_t*>(call.x);
  p.y = call.y;
  p.bias = call.bias;
  p.group_sums = call.group_sums;
  p.x_stride = call.x_stride;
  p.y_stride = call.y_stride;
  p.rows = call.rows;
  p.sums_stride = GroupSumsStride(call.rows);
  p.w_rows = layout.rows;
  p.w_cols = layout.cols;
  p.group = layout.group;
  p.splits = TiledSplits(layout);
  p.accumulate = call.accumulate;
  p.f32_y = call.f32_y;
  p.early_weights = call.early_weights;
  p.tile_bytes = TileBytes(layout);
  p.scale_bytes = TileScaleBytes(layout);
  p.codes = ConstantsOf<Half>(layout);
  return p;
}

template <class V>
cudaError_t Start(const TiledLinear& call, cudaStream_t stream) {
  Params p = ParamsOf<typename V::Half>(call);
  const int groups = V::kCols / call.layout.group;
  p.stage_bytes = p.tile_bytes + V::kRows * V::kXBytes + (V::kOffsets ? groups * V::kRows * 4 : 0);
  const auto runs = static_cast<uint32_t>((call.rows + V::kRows - 1) / V::kRows);
  const dim3 grid(static_cast<uint32_t>(RowTiles(call.layout)), runs,
                  static_cast<uint32_t>(p.splits));
  p.counters = static_cast<uint32_t*>(call.workspace);
  p.partials = reinterpret_cast<float*>(static_cast<uint8_t*>(call.workspace) +
                                        TiledCounterBytes(call.layout, call.rows));
  const int tile_bytes = V::kRows * kSumTileStride * 4, stage_bytes = V::kStages * p.stage_bytes;
  const auto shared = static_cast<size_t>(tile_bytes > stage_bytes ? tile_bytes : stage_bytes);
  return Launch(TiledKernel<V>, {grid, dim3(kThreads), shared, stream, call.early_weights}, p);
}

template <class Half, class Codes, TiledScales kScales, bool kOffsets = false>
cudaError_t StartForRows(const TiledLinear& call, cudaStream_t stream) {
  if (call.rows <= 8) return Start<Variant<Half, Codes, kScales, kOffsets, 1>>(call, stream);
  if (call.rows <= 16) return Start<Variant<Half, Codes, kScales, kOffsets, 2>>(call, stream);
  if (call.rows <= 32) return Start<Variant<Half, Codes, kScales, kOffsets, 4>>(call, stream);
  return Start<Variant<Half, Codes, kScales, kOffsets, 8>>(call, stream);
}

}  // namespace
}  // namespace nibble::cuda

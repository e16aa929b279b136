// The W4 kernel itself, over the type of x and y; w4_linear_bf16.cu and w4_linear_f16.cu compile
// it.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/w4_decode.cuh"
#include "kernels/cuda/w4_linear.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128;                    // 4 warps of 32 rows of W each
constexpr int kRowTileOfX = 8;                   // columns of an mma
constexpr int kXBytes = kW4TileCols * 2;         // of one row of x in a stage
constexpr int kSumTileStride = kW4TileRows + 4;  // floats; 4 more so that lanes hit different banks

// What a kernel is compiled for.
template <class HalfType, bool kTableCodes, bool kHasOffsets, bool kF32Scales, int kXTiles>
struct Variant {
  using Half = HalfType;
  static constexpr bool kTable = kTableCodes, kOffsets = kHasOffsets, kWideScales = kF32Scales;
  static constexpr int kTiles = kXTiles;  // of 8 rows of x
  static constexpr int kRows = kXTiles * kRowTileOfX;
  // Tiles of W in shared memory, one being used. Three are as many as fit sm_89's 99 KB at 64 rows.
  static constexpr int kStages = kXTiles == 8 ? 3 : 4;
  // Blocks that an H100's multiprocessor holds by their shared memory (by registers at 64 rows).
  static constexpr int kBlocks = kXTiles == 1 ? 5 : (kXTiles == 2 ? 4 : (kXTiles == 4 ? 3 : 2));
};

struct Params {
  const uint8_t* weights;
  const uint16_t* x;
  uint16_t* y;
  const float* bias;
  const float* group_sums;
  float* partials;     // [blocks of one split.., splits] of a block's accumulators
  uint32_t* counters;  // of each tile of y
  int32_t x_stride, y_stride, rows, sums_stride;
  int32_t w_rows, w_cols, group, splits;
  bool accumulate, early_weights;
  int32_t tile_bytes, scale_bytes, stage_bytes;
  uint32_t minus_base;   // -(Half::kCodeBase + zero), twice
  uint32_t table[2][4];  // the low bytes of the 16 entries, and the high ones
};

// One stage: a tile of W as it lies in memory, then rows of x [kRows, 128], then the tile's sums
// [groups, kRows]. Rows of x are 16 chunks of 16 bytes; chunk c of row r lies at c ^ (r % 8), so
// that ldmatrix meets every bank once.
__device__ __forceinline__ uint32_t XChunk(int row, int chunk) {
  return static_cast<uint32_t>(row * kXBytes + ((chunk ^ (row % 8)) * 16));
}

__device__ __forceinline__ void LoadWeights(const Params& p, uint32_t stage, int col_tile) {
  const int thread = threadIdx.x, col_tiles = (p.w_cols + kW4TileCols - 1) / kW4TileCols;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * col_tiles + col_tile;
  const uint8_t* weights = p.weights + tile * p.tile_bytes;
  for (int at = thread * 16; at < p.tile_bytes; at += kThreads * 16)
    ptx::CopyAsync16(stage + at, weights + at);
}

// What the kernels before this one wrote: rows of x and their sums.
template <class V>
__device__ __forceinline__ void LoadActivations(const Params& p, uint32_t stage, int first_row,
                                                int col_tile) {
  const int thread = threadIdx.x;
  const uint32_t x_stage = stage + p.tile_bytes;
#pragma unroll
  for (int i = 0; i < V::kTiles; ++i) {
    const int row = (i * kThreads + thread) / 16, chunk = thread % 16,
              col = col_tile * kW4TileCols + chunk * 8;
    const bool inside = first_row + row < p.rows && col < p.w_cols;
    const uint16_t* from =
        inside ? p.x + static_cast<int64_t>(first_row + row) * p.x_stride + col : p.x;
    ptx::CopyAsync16(x_stage + XChunk(row, chunk), from, inside ? 16 : 0);
  }
  if constexpr (V::kOffsets) {
    const int groups = kW4TileCols / p.group, fours = V::kRows / 4;
    for (int i = thread; i < groups * fours; i += kThreads) {
      const int group = i / fours, row = first_row + i % fours * 4;
      const int left = (p.rows - row) * 4;  // bytes
      const float* from =
          p.group_sums + static_cast<int64_t>(col_tile * groups + group) * p.sums_stride + row;
      ptx::CopyAsync16(x_stage + V::kRows * kXBytes + i * 16, left > 0 ? from : p.group_sums,
                       left < 0 ? 0 : (left < 16 ? left : 16));
    }
  }
}

template <class V>
__device__ __forceinline__ void LoadStage(const Params& p, uint32_t stage, int first_row,
                                          int col_tile) {
  LoadWeights(p, stage, col_tile);
  LoadActivations<V>(p, stage, first_row, col_tile);
}

// The first stages, of tiles begin .. end - 1, a group of copies each. With early weights those
// come before the wait for the kernels that write x, all in the first group.
template <class V>
__device__ __forceinline__ void LoadFirstStages(const Params& p, uint32_t stages, int first_row,
                                                int begin, int end) {
  if (p.early_weights) {
#pragma unroll
    for (int i = 0; i < V::kStages - 1; ++i) {
      if (begin + i < end) LoadWeights(p, stages + i * p.stage_bytes, begin + i);
    }
    ptx::WaitForLaunches();
  }
#pragma unroll
  for (int i = 0; i < V::kStages - 1; ++i) {
    const uint32_t stage = stages + i * p.stage_bytes;
    if (begin + i < end) {
      if (!p.early_weights) LoadWeights(p, stage, begin + i);
      LoadActivations<V>(p, stage, first_row, begin + i);
    }
    ptx::CommitCopies();
  }
  ptx::LaunchDependents();
}

// The scales (or offsets) of this lane's rows g and g + 8, from a tile's values in shared memory.
template <class V>
__device__ __forceinline__ float2 ValuePair(const uint8_t* values, int index) {
  if constexpr (V::kWideScales) {
    return *reinterpret_cast<const float2*>(values + index * 4);
  } else {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(values + index * 2);
    return {F16::Low(pair), F16::High(pair)};
  }
}

template <class V>
using Sums = float[2][V::kTiles][4];  // [16 rows of W][8 rows of x] of mma accumulators

// all += scale * part, all += offset * (the group's sums of x); part = 0.
template <class V>
__device__ __forceinline__ void CloseGroup(const Params& p, const uint8_t* stage, int group_in_tile,
                                           Sums<V>& part, Sums<V>& all) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto* sums = reinterpret_cast<const float*>(stage + p.tile_bytes + V::kRows * kXBytes);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int index = W4ScaleIndex(warp * 32 + m * 16 + lane / 4, group_in_tile);
    const float2 scale = ValuePair<V>(stage + kW4NibbleBytes, index);
    float2 offset = {};
    if constexpr (V::kOffsets) offset = ValuePair<V>(stage + kW4NibbleBytes + p.scale_bytes, index);
#pragma unroll
    for (int n = 0; n < V::kTiles; ++n) {
      float(&to)[4] = all[m][n];
      float(&from)[4] = part[m][n];
      to[0] += scale.x * from[0];
      to[1] += scale.x * from[1];
      to[2] += scale.y * from[2];
      to[3] += scale.y * from[3];
      if constexpr (V::kOffsets) {
        const float2 sum = *reinterpret_cast<const float2*>(sums + group_in_tile * V::kRows +
                                                            n * kRowTileOfX + lane % 4 * 2);
        to[0] += offset.x * sum.x;
        to[1] += offset.x * sum.y;
        to[2] += offset.y * sum.x;
        to[3] += offset.y * sum.y;
      }
      from[0] = from[1] = from[2] = from[3] = 0;
    }
  }
}

// 32 columns: two mma along k for each 16 rows of W and 8 rows of x.
template <class V>
__device__ __forceinline__ void MultiplyColumns(const Params& p, uint32_t x_stage, int chunk,
                                                const uint32_t (&words)[2][2], Sums<V>& part) {
  const int lane = threadIdx.x % 32;
  uint32_t b[V::kTiles][4];
#pragma unroll
  for (int n = 0; n < V::kTiles; ++n) {
    ptx::LoadMatrix4(b[n], x_stage + XChunk(n * kRowTileOfX + lane % 8, chunk * 4 + lane / 8));
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t a[4];
      if constexpr (V::kTable) {
        DecodeTable(words[m][step], p.table, a);
      } else {
        DecodeIntegers<typename V::Half>(words[m][step], p.minus_base, a);
      }
#pragma unroll
      for (int n = 0; n < V::kTiles; ++n) {
        const uint32_t pair[2] = {b[n][2 * step], b[n][2 * step + 1]};
        V::Half::Mma(part[m][n], a, pair);
      }
    }
  }
}

template <class V>
__device__ __forceinline__ void MultiplyTile(const Params& p, const uint8_t* stage, Sums<V>& part,
                                             Sums<V>& all) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t address = ptx::SharedAddress(stage);
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // 64 columns: one load of 16 bytes
    uint4 loaded[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      loaded[m] = ptx::LoadShared16(address + (((warp * 2 + m) * 2 + half) * 32 + lane) * 16);
    }
#pragma unroll
    for (int quarter = 0; quarter < 2; ++quarter) {
      const uint32_t words[2][2] = {
          {quarter == 0 ? loaded[0].x : loaded[0].z, quarter == 0 ? loaded[0].y : loaded[0].w},
          {quarter == 0 ? loaded[1].x : loaded[1].z, quarter == 0 ? loaded[1].y : loaded[1].w}};
      const int chunk = half * 2 + quarter;
      MultiplyColumns<V>(p, address + p.tile_bytes, chunk, words, part);
      if ((chunk + 1) * 32 % p.group == 0) CloseGroup<V>(p, stage, chunk * 32 / p.group, part, all);
    }
  }
}

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

// Four neighbours of a row of y, rounded once.
template <class V>
__device__ __forceinline__ void StoreFour(const Params& p, int row, int feature, float (&v)[4]) {
  uint16_t* y = p.y + static_cast<int64_t>(row) * p.y_stride + feature;
  const int count = p.w_rows - feature < 4 ? p.w_rows - feature : 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < count && p.bias != nullptr) v[i] += p.bias[feature + i];
    if (i < count && p.accumulate) v[i] += V::Half::ToFloat(y[i]);
  }
  const uint2 pairs = {V::Half::Pack(v[0], v[1]), V::Half::Pack(v[2], v[3])};
  if (count == 4 && reinterpret_cast<uintptr_t>(y) % 8 == 0) {
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
    const int64_t feature_of_w = static_cast<int64_t>(blockIdx.x) * kW4TileRows + feature;
    if (first_row + row >= p.rows || feature_of_w >= p.w_rows) continue;
    const uint4 bits = ptx::LoadShared16(ptx::SharedAddress(tile + row * kSumTileStride + feature));
    float v[4] = {ptx::FloatOfBits(bits.x), ptx::FloatOfBits(bits.y), ptx::FloatOfBits(bits.z),
                  ptx::FloatOfBits(bits.w)};
    StoreFour<V>(p, first_row + row, static_cast<int>(feature_of_w), v);
  }
}

// grid: (row tiles of W, runs of kRows rows of x, splits of the columns)
template <class V>
__global__ void __launch_bounds__(kThreads, V::kBlocks) W4Kernel(const Params p) {
  uint8_t* shared = &SharedMemory<uint8_t>();
  const uint32_t stages = ptx::SharedAddress(shared);
  const int first_row = blockIdx.y * V::kRows;
  const int col_tiles = (p.w_cols + kW4TileCols - 1) / kW4TileCols;
  const int begin = static_cast<int>(blockIdx.z) * col_tiles / p.splits;
  const int end = (static_cast<int>(blockIdx.z) + 1) * col_tiles / p.splits;
  Sums<V> part = {}, all = {};
  LoadFirstStages<V>(p, stages, first_row, begin, end);
  for (int tile = begin, stage = 0; tile < end; ++tile) {
    ptx::WaitCopies<V::kStages - 2>();
    ptx::SyncThreads();  // everyone's copies are there, and nobody reads the stage that is filled
                         // next
    const int next = tile + V::kStages - 1, next_stage = stage == 0 ? V::kStages - 1 : stage - 1;
    if (next < end) LoadStage<V>(p, stages + next_stage * p.stage_bytes, first_row, next);
    ptx::CommitCopies();
    MultiplyTile<V>(p, shared + stage * p.stage_bytes, part, all);
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
void FillCodes(const W4Layout& layout, Params& p) {
  const uint32_t base = Half::HostFromFloat(-(Half::kCodeBase + static_cast<float>(layout.zero)));
  p.minus_base = base | base << 16;
  for (int plane = 0; plane < 2; ++plane) {
    for (int i = 0; i < 16; ++i) {
      const uint32_t byte = Half::HostFromFloat(layout.table[i]) >> (8 * plane) & 0xFF;
      p.table[plane][i / 4] |= byte << (i % 4 * 8);
    }
  }
}

template <class Half>
Params ParamsOf(const W4Linear& call) {
  const W4Layout& layout = call.layout;
  Params p = {};
  p.weights = static_cast<const uint8_t*>(call.weights);
  p.x = static_cast<const uint16_t*>(call.x);
  p.y = static_cast<uint16_t*>(call.y);
  p.bias = call.bias;
  p.group_sums = call.group_sums;
  p.x_stride = call.x_stride;
  p.y_stride = call.y_stride;
  p.rows = call.rows;
  p.sums_stride = W4GroupSumsStride(call.rows);
  p.w_rows = layout.rows;
  p.w_cols = layout.cols;
  p.group = layout.group;
  p.splits = W4Splits(layout);
  p.accumulate = call.accumulate;
  p.early_weights = call.early_weights;
  p.tile_bytes = W4TileBytes(layout);
  p.scale_bytes = W4ScaleBytes(layout);
  FillCodes<Half>(layout, p);
  return p;
}

template <class V>
cudaError_t Start(const W4Linear& call, cudaStream_t stream) {
  Params p = ParamsOf<typename V::Half>(call);
  const int groups = kW4TileCols / call.layout.group;
  p.stage_bytes = p.tile_bytes + V::kRows * kXBytes + (V::kOffsets ? groups * V::kRows * 4 : 0);
  const auto runs = static_cast<uint32_t>((call.rows + V::kRows - 1) / V::kRows);
  const dim3 grid(static_cast<uint32_t>(W4RowTiles(call.layout)), runs,
                  static_cast<uint32_t>(p.splits));
  p.counters = static_cast<uint32_t*>(call.workspace);
  p.partials = reinterpret_cast<float*>(static_cast<uint8_t*>(call.workspace) +
                                        W4CounterBytes(call.layout, call.rows));
  const int tile_bytes = V::kRows * kSumTileStride * 4, stage_bytes = V::kStages * p.stage_bytes;
  const auto shared = static_cast<size_t>(tile_bytes > stage_bytes ? tile_bytes : stage_bytes);
  return Launch(W4Kernel<V>, {grid, dim3(kThreads), shared, stream, call.early_weights}, p);
}

template <class Half, bool kTable, bool kOffsets, bool kF32Scales>
cudaError_t StartForRows(const W4Linear& call, cudaStream_t stream) {
  if (call.rows <= 8) return Start<Variant<Half, kTable, kOffsets, kF32Scales, 1>>(call, stream);
  if (call.rows <= 16) return Start<Variant<Half, kTable, kOffsets, kF32Scales, 2>>(call, stream);
  if (call.rows <= 32) return Start<Variant<Half, kTable, kOffsets, kF32Scales, 4>>(call, stream);
  return Start<Variant<Half, kTable, kOffsets, kF32Scales, 8>>(call, stream);
}

template <class Half, bool kF32Scales>
cudaError_t StartForCodes(const W4Linear& call, cudaStream_t stream) {
  if (call.layout.codes == W4Codes::kTable)
    return StartForRows<Half, true, false, kF32Scales>(call, stream);
  if (call.layout.offsets) return StartForRows<Half, false, true, kF32Scales>(call, stream);
  return StartForRows<Half, false, false, kF32Scales>(call, stream);
}

template <class Half>
cudaError_t StartW4(const W4Linear& call, cudaStream_t stream) {
  return call.layout.f32_scales ? StartForCodes<Half, true>(call, stream)
                                : StartForCodes<Half, false>(call, stream);
}

}  // namespace
}  // namespace nibble::cuda

// How a block of the tiled linear goes through its tiles of W: stages of asynchronous copies, and
// what it multiplies of each (tiled_linear.cuh has the kernel around it).
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiled_decode.cuh"
#include "kernels/cuda/tiled_linear.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128;                  // 4 warps of 32 rows of W each
constexpr int kRowTileOfX = 8;                 // columns of an mma
constexpr int kSumTileStride = kTileRows + 4;  // floats; 4 more so that lanes hit different banks

// What a kernel is compiled for.
template <class HalfType, class CodePolicy, TiledScales kTheScales, bool kHasOffsets, int kXTiles>
struct Variant {
  using Half = HalfType;
  using Codes = CodePolicy;
  static constexpr TiledScales kScales = kTheScales;
  static constexpr bool kOffsets = kHasOffsets, kRowScales = kTheScales == TiledScales::kRow;
  static constexpr int kCols = Codes::kTileCols, kXBytes = kCols * 2;  // of a row of x in a stage
  static constexpr int kTiles = kXTiles;                               // of 8 rows of x
  static constexpr int kRows = kXTiles * kRowTileOfX;
  // Tiles of W in shared memory, one being used. Three of 128 columns are as many as fit sm_89's
  // 99 KB at 64 rows.
  static constexpr int kStages = kXTiles == 8 && kCols == 128 ? 3 : 4;
  // Blocks that an H100's multiprocessor holds by their shared memory (by registers at 64 rows).
  static constexpr int kBlocks = kXTiles == 1 ? 5 : (kXTiles == 2 ? 4 : (kXTiles == 4 ? 3 : 2));
};

// One of a launch's matrices. Its blocks are first_block .., tiles first, then splits.
struct WeightParams {
  const uint8_t* tiles;
  const float* row_scales;  // kRow
  void* y;
  const float* bias;
  float* partials;     // [runs of rows of x, row_tiles, splits] of a block's accumulators
  uint32_t* counters;  // [runs of rows of x, row_tiles]
  int32_t rows, row_tiles, splits, first_block;
};

struct Params {
  WeightParams weights[kMostTiledWeights];
  const uint16_t* x;
  const float* group_sums;
  int32_t num_weights;
  int32_t x_stride, y_stride, rows, sums_stride;
  int32_t w_cols, group;
  bool accumulate, f32_y, early_weights;
  int32_t tile_bytes, scale_bytes, stage_bytes;
  CodeConstants codes;
};

// What a block works on: 128 rows of a matrix, one part of its columns, a run of rows of x.
struct Piece {
  int weight, row_tile, split;
  int first_row;       // of x
  int begin, end;      // tiles along the columns
  const uint8_t* row;  // the first of its row of tiles
};

template <class V>
__device__ __forceinline__ Piece PieceOfBlock(const Params& p) {
  Piece piece = {};
  const int block = static_cast<int>(blockIdx.x);
  while (piece.weight + 1 < p.num_weights && block >= p.weights[piece.weight + 1].first_block)
    ++piece.weight;
  const WeightParams& w = p.weights[piece.weight];
  piece.split = (block - w.first_block) / w.row_tiles;
  piece.row_tile = block - w.first_block - piece.split * w.row_tiles;
  piece.first_row = static_cast<int>(blockIdx.y) * V::kRows;
  const int col_tiles = (p.w_cols + V::kCols - 1) / V::kCols;
  piece.begin = piece.split * col_tiles / w.splits;
  piece.end = (piece.split + 1) * col_tiles / w.splits;
  piece.row = w.tiles + static_cast<int64_t>(piece.row_tile) * col_tiles * p.tile_bytes;
  return piece;
}

// One stage: a tile of W as it lies in memory, then rows of x [kRows, kCols], then the tile's sums
// [groups, kRows]. Rows of x are chunks of 16 bytes; chunk c of row r lies at c ^ (r % 8), so that
// ldmatrix meets every bank once.
template <class V>
__device__ __forceinline__ uint32_t XChunk(int row, int chunk) {
  return static_cast<uint32_t>(row * V::kXBytes + ((chunk ^ (row % 8)) * 16));
}

template <class V>
__device__ __forceinline__ void LoadRowsOfX(const Params& p, uint32_t x_stage, int first_row,
                                            int first_col) {
  constexpr int kChunks = V::kXBytes / 16, kCopies = V::kRows * kChunks;
#pragma unroll
  for (int i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const int copy = i * kThreads + static_cast<int>(threadIdx.x);
    if (kCopies % kThreads != 0 && copy >= kCopies) break;
    const int row = copy / kChunks, chunk = copy % kChunks, col = first_col + chunk * 8;
    const bool inside = first_row + row < p.rows && col < p.w_cols;
    const uint16_t* from =
        inside ? p.x + static_cast<int64_t>(first_row + row) * p.x_stride + col : p.x;
    ptx::CopyAsync16(x_stage + XChunk<V>(row, chunk), from, inside ? 16 : 0);
  }
}

template <class V>
__device__ __forceinline__ void LoadWeights(const Params& p, const Piece& piece, uint32_t stage,
                                            int col_tile) {
  const int thread = threadIdx.x;
  const uint8_t* tile = piece.row + static_cast<int64_t>(col_tile) * p.tile_bytes;
#pragma unroll
  for (int i = 0; i < kTileCodeBytes / 16 / kThreads; ++i) {
    const int at = (i * kThreads + thread) * 16;
    ptx::CopyAsync16(stage + at, tile + at);
  }
  for (int at = kTileCodeBytes + thread * 16; at < p.tile_bytes; at += kThreads * 16)
    ptx::CopyAsync16(stage + at, tile + at);
}

// What the kernels before this one wrote: rows of x and their sums.
template <class V>
__device__ __forceinline__ void LoadActivations(const Params& p, uint32_t stage, int first_row,
                                                int col_tile) {
  const int thread = threadIdx.x;
  const uint32_t x_stage = stage + p.tile_bytes;
  LoadRowsOfX<V>(p, x_stage, first_row, col_tile * V::kCols);
  if constexpr (V::kOffsets) {
    const int groups = V::kCols / p.group, fours = V::kRows / 4;
    for (int i = thread; i < groups * fours; i += kThreads) {
      const int group = i / fours, row = first_row + i % fours * 4;
      const int left = (p.rows - row) * 4;  // bytes
      const float* from =
          p.group_sums + static_cast<int64_t>(col_tile * groups + group) * p.sums_stride + row;
      ptx::CopyAsync16(x_stage + V::kRows * V::kXBytes + i * 16, left > 0 ? from : p.group_sums,
                       left < 0 ? 0 : (left < 16 ? left : 16));
    }
  }
}

template <class V>
__device__ __forceinline__ void LoadStage(const Params& p, const Piece& piece, uint32_t stage,
                                          int col_tile) {
  LoadWeights<V>(p, piece, stage, col_tile);
  LoadActivations<V>(p, stage, piece.first_row, col_tile);
}

// The first stages of the piece, a group of copies each. With early weights those come before the
// wait for the kernels that write x, all in the first group.
template <class V>
__device__ __forceinline__ void LoadFirstStages(const Params& p, const Piece& piece,
                                                uint32_t stages) {
  if (p.early_weights) {
#pragma unroll
    for (int i = 0; i < V::kStages - 1; ++i) {
      if (piece.begin + i < piece.end)
        LoadWeights<V>(p, piece, stages + i * p.stage_bytes, piece.begin + i);
    }
    ptx::WaitForLaunches();
  }
#pragma unroll
  for (int i = 0; i < V::kStages - 1; ++i) {
    const uint32_t stage = stages + i * p.stage_bytes;
    const int tile = piece.begin + i;
    if (tile < piece.end) {
      if (!p.early_weights) LoadWeights<V>(p, piece, stage, tile);
      LoadActivations<V>(p, stage, piece.first_row, tile);
    }
    ptx::CommitCopies();
  }
  ptx::LaunchDependents();
}

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
using Sums = float[2][V::kTiles][4];  // [16 rows of W][8 rows of x] of mma accumulators

// all += scale * part, all += offset * (the group's sums of x); part = 0.
template <class V>
__device__ __forceinline__ void CloseGroup(const Params& p, const uint8_t* stage, int group_in_tile,
                                           Sums<V>& part, Sums<V>& all) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto* sums = reinterpret_cast<const float*>(stage + p.tile_bytes + V::kRows * V::kXBytes);
  constexpr float kUnit = V::Codes::template kUnit<typename V::Half>;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int index = TileScaleIndex(warp * 32 + m * 16 + lane / 4, group_in_tile);
    float2 scale = ValuePair<V>(stage + kTileCodeBytes, index);
    if constexpr (kUnit != 1) scale = {scale.x * kUnit, scale.y * kUnit};
    float2 offset = {};
    if constexpr (V::kOffsets) offset = ValuePair<V>(stage + kTileCodeBytes + p.scale_bytes, index);
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

// The group that ends with this tile's column `end`, if one does.
template <class V>
__device__ __forceinline__ void CloseGroupAt(const Params& p, const uint8_t* stage, int end,
                                             Sums<V>& part, Sums<V>& all) {
  if constexpr (!V::kRowScales) {
    if (end % V::Codes::kLeastGroup != 0 || end % p.group != 0) return;
    CloseGroup<V>(p, stage, end / p.group - 1, part, all);
  }
}

// 32 columns: two mma along k for each 16 rows of W and 8 rows of x. `step` is the first of them
// among those of `loaded`.
template <class V>
__device__ __forceinline__ void MultiplyColumns(const Params& p, const uint8_t* stage, int first,
                                                const uint32_t (&loaded)[2][4], int step,
                                                Sums<V>& part, Sums<V>& all) {
  const int lane = threadIdx.x % 32;
  const uint32_t x_stage = ptx::SharedAddress(stage) + p.tile_bytes;
  uint32_t b[V::kTiles][4];
#pragma unroll
  for (int n = 0; n < V::kTiles; ++n) {
    ptx::LoadMatrix4(b[n], x_stage + XChunk<V>(n * kRowTileOfX + lane % 8, first / 8 + lane / 8));
  }
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
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
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t address = ptx::SharedAddress(stage);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t loaded[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint4 v = ptx::LoadShared16(address + (((warp * 2 + m) * 2 + half) * 32 + lane) * 16);
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

// What a block of the tiled linear is compiled for and told, and which part of the product it
// makes.
//
// The row tiles of a launch's matrices lie one after the other; their tiles, by columns, then rows,
// are cut into stretches of equal length ("stream-K", arXiv 2301.03598), one a block. Where a
// stretch ends within a row of tiles, that row's product is a sum of parts.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tensor_map.cuh"
#include "kernels/cuda/tiled_decode.cuh"
#include "kernels/cuda/tiled_linear.h"

namespace nibble::cuda {
namespace {

constexpr int kWTileRows = 16, kRowTileOfX = 8;  // of W and of x, of an mma
constexpr int kPanelRowBytes = 128;
constexpr int kSumTileStride = kTileRows + 4;  // floats; 4 more so that lanes hit different banks
constexpr int kStageBarrierBytes = 16;         // of a stage of warp groups: filled, freed

// What a kernel is compiled for: the type of x and y, the codes, and 8 kXTiles rows of x; with
// kOfGroups for warp groups (tiled_groups.cuh).
template <class HalfType, class CodePolicy, TiledScales kTheScales, bool kHasOffsets, int kXTiles,
          bool kOfGroups>
struct Variant {
  using Half = HalfType;
  using Codes = CodePolicy;
  static constexpr TiledScales kScales = kTheScales;
  static constexpr bool kOffsets = kHasOffsets, kRowScales = kTheScales == TiledScales::kRow;
  static constexpr bool kGroups = kOfGroups;
  static constexpr int kCols = Codes::kTileCols, kXBytes = kCols * 2;  // of a row of x in a stage
  static constexpr int kTiles = kXTiles, kRows = kXTiles * kRowTileOfX;
  static constexpr int kXStageBytes = kRows * kXBytes;
  static constexpr int kWTiles = kGroups ? 1 : 2;  // a warp's
  static constexpr int kThreads = kTileRows / kWTileRows / kWTiles * 32;
  // Tiles of W in shared memory, one being used, of products of warps: few rows of x have as many
  // as give two blocks of a multiprocessor 64 KB in flight; of 128 columns at 64 rows three are as
  // many as fit sm_89's 99 KB.
  static constexpr int kStages = kXTiles <= 2 ? 5 : (kXTiles == 8 && kCols == 128 ? 3 : 4);
  // Of warp groups as many as fit, up to kMostStages, where kBlocks share sm_90's 228 KB, of which
  // each takes 1 KB more.
  static constexpr int kMostStages = 8;
  static constexpr int kSharedBytes = (kXTiles == 16 ? 227 : 113) * 1024;
  // Stretches of a block, one after another: where a multiprocessor has one block at a time.
  static constexpr int kStretches = kGroups && kXTiles == 16 ? 2 : 1;
  // Of x, whose results a stage has room for at once.
  static constexpr int kTilesOfAStage =
      (kXStageBytes + kTileCodeBytes) / (kRowTileOfX * kSumTileStride * 4);
  static constexpr int kTilesOfAStore =
      kTilesOfAStage >= kXTiles ? kXTiles
                                : (kTilesOfAStage >= 8 ? 8 : (kTilesOfAStage >= 4 ? 4 : 2));
  // Blocks that an H100's multiprocessor holds by their shared memory (by registers from 64 rows).
  static constexpr int kBlocks =
      kGroups ? (kXTiles == 16 ? 1 : 2)
              : (kXTiles == 1 ? 5 : (kXTiles == 2 ? 4 : (kXTiles == 4 ? 3 : 2)));
};

// The first of this warp's tiles of rows of W.
template <class V>
__device__ __forceinline__ int FirstWTile() {
  return static_cast<int>(threadIdx.x) / 32 * V::kWTiles;
}

// One of a launch's matrices.
struct WeightParams {
  const uint8_t* tiles;
  const float* row_scales;  // kRow
  void* y;
  const float* bias;
  int32_t rows, first_row_tile;
};

struct Params {
  CUtensorMap x_map;  // of warp groups
  WeightParams weights[kMostTiledWeights];
  const uint16_t* x;
  const float* group_sums;
  float* parts;        // [blocks along x][2 stretches] of a block's accumulators
  uint32_t* counters;  // [blocks along x][row tiles]: parts that are there
  int32_t num_weights;
  TiledCut cut;
  int32_t x_stride, y_stride, rows, sums_stride;
  int32_t w_cols, group, group_shift;  // group = 1 << group_shift
  bool accumulate, f32_y, early_weights;
  int32_t tile_bytes, scale_bytes, stage_bytes;
  int32_t stages;  // of warp groups; else kStages
  CodeConstants codes;
};

// Which matrix a row of tiles belongs to.
__device__ __forceinline__ int WeightOf(const Params& p, int row_tile) {
  int weight = 0;
  while (weight + 1 < p.num_weights && row_tile >= p.weights[weight + 1].first_row_tile) ++weight;
  return weight;
}

// The tiles of a stretch, one after another.
class NextTile {
 public:
  __device__ __forceinline__ NextTile(const Params& p, int tile)
      : tile_(tile), col_(tile % p.cut.col_tiles) {
    EnterWeight(p);
  }
  __device__ __forceinline__ const uint8_t* bytes() const { return bytes_; }
  __device__ __forceinline__ int tile() const { return tile_; }
  __device__ __forceinline__ int col() const { return col_; }  // its number in its row
  __device__ __forceinline__ void Advance(const Params& p) {
    ++tile_;
    bytes_ += p.tile_bytes;
    if (++col_ == p.cut.col_tiles) {
      col_ = 0;
      EnterWeight(p);
    }
  }

 private:
  __device__ __forceinline__ void EnterWeight(const Params& p) {
    const WeightParams& w = p.weights[WeightOf(p, tile_ / p.cut.col_tiles)];
    const int64_t of_weight = tile_ - w.first_row_tile * p.cut.col_tiles;
    bytes_ = w.tiles + of_weight * p.tile_bytes;
  }

  const uint8_t* bytes_;
  int tile_, col_;
};

// One stage: rows of x [kRows, kCols], then a tile of W as it lies in memory, then the tile's sums
// [groups, kRows]. Rows of x are cut into panels of 64 columns, [kRows] rows of eight chunks of 16
// bytes; chunk c of row r lies at c ^ (r % 8), so that ldmatrix meets every bank once, and as the
// products of warp groups take it.
template <class V>
__device__ __forceinline__ uint32_t XChunk(int row, int chunk) {
  constexpr int kPanelBytes = V::kRows * kPanelRowBytes;
  return static_cast<uint32_t>(chunk / 8 * kPanelBytes + row * kPanelRowBytes +
                               (chunk % 8 ^ row % 8) * 16);
}

}  // namespace
}  // namespace nibble::cuda

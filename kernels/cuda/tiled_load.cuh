// How tiles of W, and rows of x beside them, come to a block of the tiled linear: asynchronous
// copies into stages, tile after tile of its stretch.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_params.cuh"

namespace nibble::cuda {
namespace {

// This thread, for what it copies: where registers are few, none keeps what follows from it.
template <class V>
__device__ __forceinline__ uint32_t CopyingThread() {
  return V::kFewRegisters ? static_cast<uint32_t>(ptx::ThreadIndex()) : threadIdx.x;
}

// This thread's copies of the next tile. The multiplying warps issue them, too, so what an address
// takes is a few instructions.
template <class V>
class Loader {
 public:
  __device__ __forceinline__ Loader(const Params& p, int tile) : col_(tile % p.cut.col_tiles) {
    EnterWeight(p, tile);
  }

  __device__ __forceinline__ void LoadWeights(const Params& p, uint32_t stage) const {
    const uint32_t thread = CopyingThread<V>(), to = stage + V::kXStageBytes + thread * 16;
    const uint8_t* from = w_ + thread * 16;
#pragma unroll
    for (int at = 0; at < kTileCodeBytes; at += V::kThreads * 16)
      ptx::CopyAsync16(to + at, from + at);
#pragma unroll 1
    for (int at = kTileCodeBytes; at + static_cast<int>(thread) * 16 < p.tile_bytes;
         at += V::kThreads * 16)
      ptx::CopyAsync16(to + at, from + at);
  }

  // What the kernels before this one wrote: rows of x and their sums.
  __device__ __forceinline__ void LoadActivations(const Params& p, uint32_t stage,
                                                  int first_row) const {
    constexpr int kChunks = V::kXBytes / 16, kRowsAtOnce = V::kThreads / kChunks;
    constexpr int kTurns = (V::kRows + kRowsAtOnce - 1) / kRowsAtOnce;
    const uint32_t thread = CopyingThread<V>();
    const int row = static_cast<int>(thread / kChunks), chunk = static_cast<int>(thread % kChunks);
    const int col = col_ * V::kCols + chunk * 8;
    const int rows_left = col < p.w_cols ? p.rows - first_row - row : 0;
    const uint16_t* from = p.x + static_cast<int64_t>(first_row + row) * p.x_stride + col;
    const uint32_t to = stage + XChunk<V>(row, chunk);
    const int stride = kRowsAtOnce * p.x_stride;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (V::kRows < kRowsAtOnce && row >= V::kRows) break;
      const bool inside = i * kRowsAtOnce < rows_left;
      ptx::CopyAsync16(to + i * kRowsAtOnce * kPanelRowBytes, inside ? from + i * stride : p.x,
                       inside ? 16 : 0);
    }
    if constexpr (V::kOffsets) LoadSums(p, stage, first_row);
  }

  // To the tile after `tile`.
  __device__ __forceinline__ void Advance(const Params& p, int tile) {
    w_ += p.tile_bytes;
    if (++col_ == p.cut.col_tiles) {
      col_ = 0;
      EnterWeight(p, tile + 1);
    }
  }

 private:
  __device__ __forceinline__ void EnterWeight(const Params& p, int tile) {
    const int row_tile = tile / p.cut.col_tiles;
    const WeightParams& w = p.weights[WeightOf(p, row_tile)];
    const int64_t of_weight = tile - w.first_row_tile * p.cut.col_tiles;
    w_ = w.tiles + of_weight * p.tile_bytes;
  }

  __device__ __forceinline__ void LoadSums(const Params& p, uint32_t stage, int first_row) const {
    const int groups = V::kCols / p.group, fours = V::kRows / 4;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < groups * fours; i += V::kThreads) {
      const int group = i / fours, row = first_row + i % fours * 4;
      const int left = (p.rows - row) * 4;  // bytes
      const float* from =
          p.group_sums + static_cast<int64_t>(col_ * groups + group) * p.sums_stride + row;
      ptx::CopyAsync16(stage + V::kXStageBytes + p.tile_bytes + i * 16,
                       left > 0 ? from : p.group_sums, left < 0 ? 0 : (left < 16 ? left : 16));
    }
  }

  const uint8_t* w_;  // the next tile
  int col_;           // its number in its row
};

// The first stages of a stretch, a group of copies each. With early weights those come before the
// wait for the kernels that write x, all in the first group.
template <class V>
__device__ __forceinline__ void LoadFirstStages(const Params& p, uint32_t stages, int begin,
                                                int end, int first_row, Loader<V>& loader) {
  if (p.early_weights) {
    Loader<V> ahead = loader;
#pragma unroll 1
    for (int i = 0; i < V::kStages - 1 && begin + i < end; ++i) {
      ahead.LoadWeights(p, stages + i * p.stage_bytes);
      ahead.Advance(p, begin + i);
    }
    ptx::WaitForLaunches();
  }
#pragma unroll 1
  for (int i = 0; i < V::kStages - 1; ++i) {
    const uint32_t stage = stages + i * p.stage_bytes;
    if (begin + i < end) {
      if (!p.early_weights) loader.LoadWeights(p, stage);
      loader.LoadActivations(p, stage, first_row);
      loader.Advance(p, begin + i);
    }
    ptx::CommitCopies();
  }
  ptx::LaunchDependents();
}

// While `tile` is multiplied from `stage`: the last one ahead, into the stage before, which
// everyone is done with. A group of copies, empty at the end.
template <class V>
__device__ __forceinline__ void LoadNextStage(const Params& p, uint32_t stages, int stage, int tile,
                                              int end, int first_row, Loader<V>& loader) {
  const int next = tile + V::kStages - 1;
  if (next < end) {
    const uint32_t to = stages + (stage == 0 ? V::kStages - 1 : stage - 1) * p.stage_bytes;
    loader.LoadWeights(p, to);
    loader.LoadActivations(p, to, first_row);
    loader.Advance(p, next);
  }
  ptx::CommitCopies();
}

}  // namespace
}  // namespace nibble::cuda

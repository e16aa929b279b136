// How tiles of W, and rows of x beside them, come to a block of the tiled linear by warps:
// asynchronous copies of 16 bytes into stages, tile after tile of its stretch.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_params.cuh"

namespace nibble::cuda {
namespace {

// This thread's copies of one tile. The multiplying warps issue them, too, so what an address takes
// is a few instructions.
template <class V>
__device__ __forceinline__ void CopyWeights(const Params& p, uint32_t stage, const NextTile& tile) {
  const uint32_t to = stage + V::kXStageBytes + threadIdx.x * 16;
  const uint8_t* from = tile.bytes() + threadIdx.x * 16;
#pragma unroll
  for (int at = 0; at < kTileCodeBytes; at += V::kThreads * 16)
    ptx::CopyAsync16(to + at, from + at);
#pragma unroll 1
  for (int at = kTileCodeBytes; at + static_cast<int>(threadIdx.x) * 16 < p.tile_bytes;
       at += V::kThreads * 16)
    ptx::CopyAsync16(to + at, from + at);
}

template <class V>
__device__ __forceinline__ void CopySums(const Params& p, uint32_t stage, int first_row, int col) {
  const int groups = V::kCols / p.group, fours = V::kRows / 4;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < groups * fours; i += V::kThreads) {
    const int group = i / fours, row = first_row + i % fours * 4;
    const int left = (p.rows - row) * 4;  // bytes
    const float* from =
        p.group_sums + static_cast<int64_t>(col * groups + group) * p.sums_stride + row;
    ptx::CopyAsync16(stage + V::kXStageBytes + p.tile_bytes + i * 16,
                     left > 0 ? from : p.group_sums, left < 0 ? 0 : (left < 16 ? left : 16));
  }
}

// What the kernels before this one wrote: rows of x and their sums.
template <class V>
__device__ __forceinline__ void CopyActivations(const Params& p, uint32_t stage, int first_row,
                                                const NextTile& tile) {
  constexpr int kChunks = V::kXBytes / 16, kRowsAtOnce = V::kThreads / kChunks;
  constexpr int kTurns = (V::kRows + kRowsAtOnce - 1) / kRowsAtOnce;
  const int row = static_cast<int>(threadIdx.x / kChunks),
            chunk = static_cast<int>(threadIdx.x % kChunks);
  const int col = tile.col() * V::kCols + chunk * 8;
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
  if constexpr (V::kOffsets) CopySums<V>(p, stage, first_row, tile.col());
}

// The stages of a stretch, as MultiplyStretch goes through them.
template <class V>
class CopiedStages {
 public:
  // The first ones, a group of copies each. With early weights those come before the wait for the
  // kernels that write x, all in the first group.
  __device__ __forceinline__ CopiedStages(const Params& p, uint32_t stages, int begin, int end,
                                          int first_row)
      : stages_(stages), end_(end), first_row_(first_row), next_(p, begin) {
    if (p.early_weights) {
      NextTile ahead = next_;
#pragma unroll 1
      for (int i = 0; i < V::kStages - 1 && ahead.tile() < end; ++i) {
        CopyWeights<V>(p, stages + i * p.stage_bytes, ahead);
        ahead.Advance(p);
      }
      ptx::WaitForLaunches();
    }
#pragma unroll 1
    for (int i = 0; i < V::kStages - 1; ++i) {
      const uint32_t stage = stages + i * p.stage_bytes;
      if (next_.tile() < end) {
        if (!p.early_weights) CopyWeights<V>(p, stage, next_);
        CopyActivations<V>(p, stage, first_row, next_);
        next_.Advance(p);
      }
      ptx::CommitCopies();
    }
  }

  // The number of the stage of the next tile, which is there for all threads. They are done with
  // the stage before it.
  __device__ __forceinline__ int Wait(const Params&) {
    ptx::WaitCopies<V::kStages - 2>();
    ptx::SyncThreads();
    return stage_;
  }

  // While that one is multiplied: the last one ahead, into the stage before. A group of copies,
  // empty at the end.
  __device__ __forceinline__ void LoadNext(const Params& p) {
    if (next_.tile() < end_) {
      const uint32_t to = stages_ + (stage_ == 0 ? V::kStages - 1 : stage_ - 1) * p.stage_bytes;
      CopyWeights<V>(p, to, next_);
      CopyActivations<V>(p, to, first_row_, next_);
      next_.Advance(p);
    }
    ptx::CommitCopies();
  }

  // This thread is done with the stage; where it `wrote` there, so are all.
  __device__ __forceinline__ void Release(const Params&, bool) {
    stage_ = stage_ == V::kStages - 1 ? 0 : stage_ + 1;
  }

  __device__ __forceinline__ void End() const { ptx::WaitCopies<0>(); }

 private:
  uint32_t stages_;
  int end_, first_row_, stage_ = 0;
  NextTile next_;
};

}  // namespace
}  // namespace nibble::cuda

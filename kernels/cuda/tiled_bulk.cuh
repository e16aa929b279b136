// How tiles of W, and rows of x beside them, come to a block of the tiled linear by warp groups
// (sm_90a): bulk copies that one thread asks for, a few for each stage. A stage has two barriers,
// behind all stages: it is filled, for all threads; it is freed by all warps, for that one thread.
// So warps wait for bytes, and for each other only where a row of tiles ends.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx_bulk.cuh"
#include "kernels/cuda/ptx_warp_group.cuh"
#include "kernels/cuda/tiled_params.cuh"

namespace nibble::cuda {
namespace {

// The stages of a stretch, as MultiplyStretch goes through them (CopiedStages says how).
template <class V>
class BulkStages {
 public:
  __device__ __forceinline__ BulkStages(const Params& p, uint32_t stages, int begin, int end,
                                        int first_row)
      : stages_(stages),
        barriers_(stages + p.stages * p.stage_bytes),
        end_(end),
        first_row_(first_row),
        next_(p, begin) {
    if (IsCopying()) MakeBarriers(p);
    if constexpr (V::kOffsets) ClearSums(p);
    if (p.early_weights) {
      NextTile ahead = next_;
#pragma unroll 1
      for (int i = 0; IsCopying() && i < p.stages && ahead.tile() < end; ++i) {
        CopyWeights(p, i, ahead);
        ahead.Advance(p);
      }
      ptx::WaitForLaunches();
    }
#pragma unroll 1
    for (int i = 0; IsCopying() && i < p.stages && next_.tile() < end; ++i) {
      if (!p.early_weights) CopyWeights(p, i, next_);
      CopyActivations(p, i);
      next_.Advance(p);
    }
    ptx::SyncThreads();  // there are barriers
  }

  __device__ __forceinline__ int Wait(const Params&) const {
    ptx::WaitPhase(Filled(stage_), parity_);
    return stage_;
  }

  // Into the stage before, once all warps have freed it: there is none before the first tile.
  __device__ __forceinline__ void LoadNext(const Params& p) {
    if (threadIdx.x >= 32) return;
    if (IsCopying() && !is_first_ && next_.tile() < end_) {
      const bool wraps = stage_ == 0;
      const int before = (wraps ? p.stages : stage_) - 1;
      ptx::WaitPhase(Freed(before), wraps ? parity_ ^ 1 : parity_);
      CopyWeights(p, before, next_);
      CopyActivations(p, before);
      next_.Advance(p);
    }
    ptx::SyncWarp();
  }

  __device__ __forceinline__ void Release(const Params& p, bool wrote) {
    if (wrote) {
      ptx::OrderSharedForProducts();
      ptx::SyncThreads();
    }
    ptx::SyncWarp();
    if (threadIdx.x % 32 == 0) ptx::Arrive(Freed(stage_));
    is_first_ = false;
    if (++stage_ == p.stages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

  __device__ __forceinline__ void End() const {}

 private:
  static __device__ __forceinline__ bool IsCopying() { return threadIdx.x == 0; }
  __device__ __forceinline__ uint32_t Filled(int stage) const {
    return barriers_ + static_cast<uint32_t>(stage * kStageBarrierBytes);
  }
  __device__ __forceinline__ uint32_t Freed(int stage) const { return Filled(stage) + 8; }

  __device__ __forceinline__ void MakeBarriers(const Params& p) const {
    ptx::PrefetchMap(p.x_map);
#pragma unroll 1
    for (int i = 0; i < p.stages; ++i) {
      ptx::InitBarrier(Filled(i), 1);
      ptx::InitBarrier(Freed(i), V::kThreads / 32);
    }
    ptx::OrderBarriers();
  }

  // Bytes of a group's sums of this block's rows of x, as far as there are any.
  __device__ __forceinline__ int SumBytes(const Params& p) const {
    const int left = p.sums_stride - first_row_;
    return (left < V::kRows ? left : V::kRows) * 4;
  }

  // Those of rows past the last one, which no copy brings.
  __device__ __forceinline__ void ClearSums(const Params& p) const {
    const int groups = V::kCols / p.group, empty = V::kRows / 4 - SumBytes(p) / 16;
#pragma unroll 1
    for (int stage = 0; stage < p.stages; ++stage) {
      const uint32_t sums = stages_ + stage * p.stage_bytes + V::kXStageBytes + p.tile_bytes;
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < groups * empty; i += V::kThreads)
        ptx::StoreShared16(sums + i / empty * V::kRows * 4 + SumBytes(p) + i % empty * 16, uint4{});
    }
  }

  // The stage's first copy, and how many bytes all of them have.
  __device__ __forceinline__ void CopyWeights(const Params& p, int stage,
                                              const NextTile& tile) const {
    int bytes = V::kXStageBytes + p.tile_bytes;
    if constexpr (V::kOffsets) bytes += V::kCols / p.group * SumBytes(p);
    ptx::ArriveExpecting(Filled(stage), bytes);
    ptx::CopyBulk(stages_ + stage * p.stage_bytes + V::kXStageBytes, tile.bytes(), p.tile_bytes,
                  Filled(stage));
  }

  __device__ __forceinline__ void CopyActivations(const Params& p, int stage) const {
    const uint32_t to = stages_ + stage * p.stage_bytes;
#pragma unroll
    for (int col = 0; col < V::kCols; col += kSwizzledCols)
      ptx::CopyRows(to + col / kSwizzledCols * V::kRows * kPanelRowBytes, p.x_map,
                    next_.col() * V::kCols + col, first_row_, Filled(stage));
    if constexpr (V::kOffsets) {
      const int groups = V::kCols / p.group;
#pragma unroll 1
      for (int group = 0; group < groups; ++group) {
        const int64_t row = static_cast<int64_t>(next_.col() * groups + group) * p.sums_stride;
        ptx::CopyBulk(to + V::kXStageBytes + p.tile_bytes + group * V::kRows * 4,
                      p.group_sums + row + first_row_, SumBytes(p), Filled(stage));
      }
    }
  }

  uint32_t stages_, barriers_;
  int end_, first_row_, stage_ = 0;
  uint32_t parity_ = 0;  // of the phase that fills the stage
  bool is_first_ = true;
  NextTile next_;
};

}  // namespace
}  // namespace nibble::cuda

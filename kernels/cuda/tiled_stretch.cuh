// A block's way through its stretch of tiles, the same for both kernels of the tiled linear: stages
// come and go, `multiply` takes each one, and rows of tiles are finished where they end.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx_warp_group.cuh"
#include "kernels/cuda/tiled_finish.cuh"
#include "kernels/cuda/tiled_load.cuh"
#include "kernels/cuda/tiled_multiply.cuh"

namespace nibble::cuda {
namespace {

// grid: (blocks along x of kRows rows, stretches of tiles). Blocks of one stretch are neighbours,
// so that its tiles come from memory once.
//   multiply(stage, part, all)   adds the stage's product to the sums of a group, and ended groups
//                                to all (kRow: unscaled and without groups, part is all)
template <class V, class Multiply>
__device__ __forceinline__ void MultiplyStretch(const Params& p, Multiply multiply) {
  uint8_t* shared = &SharedMemory<uint8_t>();
  const uint32_t stages = ptx::SharedAddress(shared);
  const int first_row = static_cast<int>(blockIdx.x) * V::kRows;
  const int begin = p.cut.BeginOf(static_cast<int>(blockIdx.y)),
            end = p.cut.BeginOf(static_cast<int>(blockIdx.y) + 1);
  Sums<V> part = {}, all = {};
  Loader<V> loader(p, begin);
  LoadFirstStages<V>(p, stages, begin, end, first_row, loader);
  int left = p.cut.col_tiles - begin % p.cut.col_tiles;  // tiles of this row of them
  for (int tile = begin, stage = 0; tile < end; ++tile) {
    ptx::WaitCopies<V::kStages - 2>();
    if constexpr (V::kGroups) ptx::OrderSharedForProducts();
    ptx::SyncThreads();  // everyone's copies are there, and nobody reads the stage that is filled
                         // next
    LoadNextStage<V>(p, stages, stage, tile, end, first_row, loader);
    multiply(shared + stage * p.stage_bytes, V::kRowScales ? all : part, all);
    if (--left == 0 || tile + 1 == end) {
      Finish<V>(p, tile, first_row, shared + stage * p.stage_bytes, all);
      Clear<V>(all);
      left = p.cut.col_tiles;
    }
    stage = stage == V::kStages - 1 ? 0 : stage + 1;
  }
  ptx::WaitCopies<0>();
}

}  // namespace
}  // namespace nibble::cuda

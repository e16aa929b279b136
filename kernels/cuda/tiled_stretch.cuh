// A block's way through its stretch of tiles, the same for both kernels of the tiled linear: stages
// come and go, `multiply` takes each one, and rows of tiles are finished where they end.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_finish.cuh"
#include "kernels/cuda/tiled_multiply.cuh"

namespace nibble::cuda {
namespace {

// grid: (blocks along x of kRows rows, stretches of tiles, kStretches a block). Blocks of one
// stretch are neighbours, so that its tiles come from memory once.
//   Stages   CopiedStages or BulkStages
//   multiply(stage, part, all, load_next)
//            adds the stage's product to the sums of a group, and ended groups to all (kRow:
//            unscaled and without groups, part is all); calls load_next where it waits least
template <class V, class Stages, class Multiply>
__device__ __forceinline__ void MultiplyStretch(const Params& p, Multiply multiply) {
  uint8_t* shared = &SharedMemory<uint8_t>();
  const int first_row = static_cast<int>(blockIdx.x) * V::kRows;
  int number = static_cast<int>(blockIdx.y) * V::kStretches;  // the stretch's
  const int begin = p.cut.BeginOf(number), end = EndOfBlock<V>(p);
  int stretch_end = p.cut.BeginOf(number + 1);
  Sums<V> part = {}, all = {};
  Stages stages(p, ptx::SharedAddress(shared), begin, end, first_row);
  ptx::LaunchDependents();
  int left = p.cut.col_tiles - begin % p.cut.col_tiles;  // tiles of this row of them
  for (int tile = begin; tile < end; ++tile) {
    uint8_t* stage = shared + stages.Wait(p) * p.stage_bytes;
    multiply(stage, V::kRowScales ? all : part, all, [&] { stages.LoadNext(p); });
    const bool ends_row = --left == 0;
    const bool ends_stretch = tile + 1 == (V::kStretches == 1 ? end : stretch_end);
    const bool is_finished = ends_row || ends_stretch;
    if (is_finished) {
      // Not kept over the loop where registers are short.
      const Stretch stretch(p, V::kStretches == 1 ? static_cast<int>(blockIdx.y) : number);
      FinishRow<V>(p, tile, stretch, first_row, stage, all);
      Clear<V>(part);  // of no group: its registers are free for FinishRow
      Clear<V>(all);
      if (ends_row) left = p.cut.col_tiles;
      if (V::kStretches > 1 && ends_stretch) stretch_end = p.cut.BeginOf(++number + 1);
    }
    stages.Release(p, is_finished);
  }
  stages.End();
}

}  // namespace
}  // namespace nibble::cuda

// The tiled linear's kernel by products of warps, over the type of x and y and the kind of codes.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_finish.cuh"
#include "kernels/cuda/tiled_load.cuh"
#include "kernels/cuda/tiled_multiply.cuh"
#include "kernels/cuda/tiled_start.cuh"

namespace nibble::cuda {
namespace {

// grid: (blocks along x of kRows rows, stretches of tiles). Blocks of one stretch are neighbours,
// so that its tiles come from memory once.
template <class V>
__global__ void __launch_bounds__(V::kThreads, V::kBlocks)
    TiledKernel(const __grid_constant__ Params p) {
  uint8_t* shared = &SharedMemory<uint8_t>();
  const uint32_t stages = ptx::SharedAddress(shared);
  const int first_row = static_cast<int>(blockIdx.x) * V::kRows;
  const int begin = p.cut.BeginOf(static_cast<int>(blockIdx.y)),
            end = p.cut.BeginOf(static_cast<int>(blockIdx.y) + 1);
  Sums<V> part = {}, all = {};  // of a group, and of all (kRow: unscaled, without groups)
  Loader<V> loader(p, begin);
  LoadFirstStages<V>(p, stages, begin, end, first_row, loader);
  int left = p.cut.col_tiles - begin % p.cut.col_tiles;  // tiles of this row of them
  for (int tile = begin, stage = 0; tile < end; ++tile) {
    ptx::WaitCopies<V::kStages - 2>();
    ptx::SyncThreads();  // everyone's copies are there, and nobody reads the stage that is filled
                         // next
    LoadNextStage<V>(p, stages, stage, tile, end, first_row, loader);
    MultiplyTile<V>(p, shared + stage * p.stage_bytes, V::kRowScales ? all : part, all);
    if (--left == 0 || tile + 1 == end) {
      Finish<V>(p, tile, first_row, shared + stage * p.stage_bytes, all);
      Clear<V>(all);
      left = p.cut.col_tiles;
    }
    stage = stage == V::kStages - 1 ? 0 : stage + 1;
  }
  ptx::WaitCopies<0>();
}

struct WarpKernels {
  template <class Half, class Codes, TiledScales kScales, bool kOffsets = false>
  static cudaError_t Start(const TiledLinear& call, cudaStream_t stream) {
    if (call.rows <= 8) return StartTiles<Half, Codes, kScales, kOffsets, 1>(call, stream);
    if (call.rows <= 16) return StartTiles<Half, Codes, kScales, kOffsets, 2>(call, stream);
    if (call.rows <= 32) return StartTiles<Half, Codes, kScales, kOffsets, 4>(call, stream);
    return StartTiles<Half, Codes, kScales, kOffsets, 8>(call, stream);
  }

 private:
  template <class Half, class Codes, TiledScales kScales, bool kOffsets, int kXTiles>
  static cudaError_t StartTiles(const TiledLinear& call, cudaStream_t stream) {
    using V = Variant<Half, Codes, kScales, kOffsets, kXTiles, /*kOfGroups=*/false>;
    return cuda::Start<V>(call, TiledKernel<V>, stream);
  }
};

}  // namespace
}  // namespace nibble::cuda

// The tiled linear's kernel by products of warps, over the type of x and y and the kind of codes.
#pragma once

#include <cstdint>

#include "kernels/cuda/tiled_load.cuh"
#include "kernels/cuda/tiled_start.cuh"
#include "kernels/cuda/tiled_stretch.cuh"

namespace nibble::cuda {
namespace {

template <class V>
__global__ void __launch_bounds__(V::kThreads, V::kBlocks)
    TiledKernel(const __grid_constant__ Params p) {
  MultiplyStretch<V, CopiedStages<V>>(
      p, [&p](const uint8_t* stage, Sums<V>& part, Sums<V>& all, auto load_next) {
        load_next();
        MultiplyTile<V>(p, stage, part, all);
      });
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

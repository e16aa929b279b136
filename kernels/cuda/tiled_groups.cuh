// The tiled linear's kernel for devices with warp groups and bulk copies (sm_90a), for more than a
// few rows of x: a warp decodes 16 rows of W, each code once in a block, and the group's product
// takes rows of x from shared memory as they lie there, while the warps decode what comes next.
//
// Elements of y are sums in the order of TiledKernel's, of the same products.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx_warp_group.cuh"
#include "kernels/cuda/tiled_bulk.cuh"
#include "kernels/cuda/tiled_start.cuh"
#include "kernels/cuda/tiled_stretch.cuh"

namespace nibble::cuda {
namespace {

// A tile of the stage; groups of columns end after every kSteps * 16 of them. The next stage is
// asked for behind the last products, which run meanwhile.
template <class V, int kSteps, class LoadNext>
__device__ __forceinline__ void MultiplyStage(const Params& p, const uint8_t* stage, Sums<V>& part,
                                              Sums<V>& all, LoadNext load_next) {
  constexpr int kPanelBytes = V::kRows * kPanelRowBytes;
  constexpr int kStepsOfLoad = V::kCols / 16 / 2;  // of one load of 16 bytes
  const int lane = threadIdx.x % 32;
  const uint32_t x = ptx::SharedAddress(stage), codes = x + V::kXStageBytes;
  const uint64_t rows = ptx::SwizzledRows(x);
  uint4 bytes[2];
#pragma unroll
  for (int load = 0; load < 2; ++load)
    bytes[load] = ptx::LoadShared16(codes + ((FirstWTile<V>() * 2 + load) * 32 + lane) * 16);
#pragma unroll
  for (int load = 0; load < 2; ++load) {
    const uint32_t loaded[4] = {bytes[load].x, bytes[load].y, bytes[load].z, bytes[load].w};
    uint32_t a[kStepsOfLoad][4];
#pragma unroll
    for (int i = 0; i < kStepsOfLoad; ++i)
      V::Codes::template Decode<typename V::Half>(p.codes, loaded, i, a[i]);
    ptx::Pin(part[0]);
    ptx::OrderRegisters();
#pragma unroll
    for (int i = 0; i < kStepsOfLoad; ++i) {
      const int step = load * kStepsOfLoad + i;
      const uint64_t columns = ptx::Further(rows, step / 4 * kPanelBytes + step % 4 * 32);
      if (V::kRowScales || step % kSteps != 0) {
        V::Half::template MultiplyGroup</*kAdd=*/true>(part[0], a[i], columns);
      } else {
        V::Half::template MultiplyGroup</*kAdd=*/false>(part[0], a[i], columns);
      }
    }
    ptx::CommitProducts();
    if (load == 1) load_next();
    if ((load + 1) * kStepsOfLoad % kSteps == 0) {
      ptx::WaitProducts<0>();
      ptx::Pin(part[0]);
      if constexpr (!V::kRowScales)
        CloseGroup<V>(p, stage, (load + 1) * kStepsOfLoad / kSteps - 1, part, all);
    }
  }
}

template <class V, int kSteps>
__device__ __forceinline__ void MultiplyStretchOfGroups(const Params& p) {
  MultiplyStretch<V, BulkStages<V>>(
      p, [&p](const uint8_t* stage, Sums<V>& part, Sums<V>& all, auto load_next) {
        MultiplyStage<V, kSteps>(p, stage, part, all, load_next);
      });
}

// REQUIRES HasWarpGroups.
template <class V>
__global__ void __launch_bounds__(V::kThreads, V::kBlocks)
    WarpGroupKernel(const __grid_constant__ Params p) {
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if (Is4Bit(V::Codes::kKind) && p.group == V::kCols) {
    MultiplyStretchOfGroups<V, 8>(p);
  } else {
    MultiplyStretchOfGroups<V, 4>(p);
  }
#endif
}

struct WarpGroupKernels {
  template <class Half, class Codes, TiledScales kScales, bool kOffsets = false>
  static cudaError_t Start(const TiledLinear& call, cudaStream_t stream) {
    if constexpr (Is4Bit(Codes::kKind)) {  // HasWarpGroups
      if (call.rows <= 16) return StartTiles<Half, Codes, kScales, kOffsets, 2>(call, stream);
    }
    if (call.rows <= 32) return StartTiles<Half, Codes, kScales, kOffsets, 4>(call, stream);
    if (call.rows <= 64) return StartTiles<Half, Codes, kScales, kOffsets, 8>(call, stream);
    return StartTiles<Half, Codes, kScales, kOffsets, 16>(call, stream);
  }

 private:
  template <class Half, class Codes, TiledScales kScales, bool kOffsets, int kXTiles>
  static cudaError_t StartTiles(const TiledLinear& call, cudaStream_t stream) {
    using V = Variant<Half, Codes, kScales, kOffsets, kXTiles, /*kOfGroups=*/true>;
    return cuda::Start<V>(call, WarpGroupKernel<V>, stream);
  }
};

}  // namespace
}  // namespace nibble::cuda

#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {

cudaError_t StartInt8Bf16(const TiledLinear& call, cudaStream_t stream) {
  if (call.layout.scales == TiledScales::kRow)
    return StartForRows<Bf16, Int8Weights, TiledScales::kRow>(call, stream);
  if (call.layout.offsets)
    return StartForRows<Bf16, Int8Weights, TiledScales::kF32, true>(call, stream);
  if (call.layout.scales == TiledScales::kF32)
    return StartForRows<Bf16, Int8Weights, TiledScales::kF32>(call, stream);
  return StartForRows<Bf16, Int8Weights, TiledScales::kF16>(call, stream);
}

}  // namespace nibble::cuda

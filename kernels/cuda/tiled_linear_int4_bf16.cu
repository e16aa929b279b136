#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {
namespace {

template <TiledScales kScales>
cudaError_t StartWith(const TiledLinear& call, cudaStream_t stream) {
  if (call.layout.codes == TiledCodes::kLut4)
    return StartForRows<Bf16, Lut4Weights, kScales>(call, stream);
  if (call.layout.offsets) return StartForRows<Bf16, Int4Weights, kScales, true>(call, stream);
  return StartForRows<Bf16, Int4Weights, kScales>(call, stream);
}

}  // namespace

cudaError_t StartInt4Bf16(const TiledLinear& call, cudaStream_t stream) {
  return call.layout.scales == TiledScales::kF32 ? StartWith<TiledScales::kF32>(call, stream)
                                                 : StartWith<TiledScales::kF16>(call, stream);
}

}  // namespace nibble::cuda

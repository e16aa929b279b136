#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {
namespace {

template <class Codes>
cudaError_t StartOf(const TiledLinear& call, cudaStream_t stream) {
  if (call.layout.scales == TiledScales::kBlock)
    return StartForRows<F16, Codes, TiledScales::kBlock>(call, stream);
  return StartForRows<F16, Codes, TiledScales::kRow>(call, stream);
}

}  // namespace

cudaError_t StartFp8F16(const TiledLinear& call, cudaStream_t stream) {
  return call.layout.codes == TiledCodes::kE5m2 ? StartOf<E5m2Weights>(call, stream)
                                                : StartOf<E4m3Weights>(call, stream);
}

}  // namespace nibble::cuda

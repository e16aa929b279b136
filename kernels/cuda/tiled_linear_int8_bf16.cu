#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {

cudaError_t StartInt8Bf16(const TiledLinear& call, cudaStream_t stream) {
  return StartInt8<WarpKernels, Bf16>(call, stream);
}

}  // namespace nibble::cuda

#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {

cudaError_t StartInt4F16(const TiledLinear& call, cudaStream_t stream) {
  return Start4Bit<WarpKernels, F16>(call, stream);
}

}  // namespace nibble::cuda

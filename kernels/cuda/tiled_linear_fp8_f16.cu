#include "kernels/cuda/tiled_linear.cuh"

namespace nibble::cuda {

cudaError_t StartFp8F16(const TiledLinear& call, cudaStream_t stream) {
  return StartFp8<WarpKernels, F16>(call, stream);
}

}  // namespace nibble::cuda

#include "kernels/cuda/tiled_groups.cuh"

namespace nibble::cuda {

cudaError_t StartGroupsFp8F16(const TiledLinear& call, cudaStream_t stream) {
  return StartFp8<WarpGroupKernels, F16>(call, stream);
}

}  // namespace nibble::cuda

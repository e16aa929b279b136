#include "kernels/cuda/tiled_groups.cuh"

namespace nibble::cuda {

cudaError_t StartGroupsFp8Bf16(const TiledLinear& call, cudaStream_t stream) {
  return StartFp8<WarpGroupKernels, Bf16>(call, stream);
}

}  // namespace nibble::cuda

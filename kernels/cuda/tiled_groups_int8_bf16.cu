#include "kernels/cuda/tiled_groups.cuh"

namespace nibble::cuda {

cudaError_t StartGroupsInt8Bf16(const TiledLinear& call, cudaStream_t stream) {
  return StartInt8<WarpGroupKernels, Bf16>(call, stream);
}

}  // namespace nibble::cuda

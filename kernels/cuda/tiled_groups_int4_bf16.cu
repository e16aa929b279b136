#include "kernels/cuda/tiled_groups.cuh"

namespace nibble::cuda {

cudaError_t StartGroupsInt4Bf16(const TiledLinear& call, cudaStream_t stream) {
  return Start4Bit<WarpGroupKernels, Bf16>(call, stream);
}

}  // namespace nibble::cuda

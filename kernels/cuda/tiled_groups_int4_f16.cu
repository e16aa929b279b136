#include "kernels/cuda/tiled_groups.cuh"

namespace nibble::cuda {

cudaError_t StartGroupsInt4F16(const TiledLinear& call, cudaStream_t stream) {
  return Start4Bit<WarpGroupKernels, F16>(call, stream);
}

}  // namespace nibble::cuda

#include "kernels/cuda/tiled_groups.cuh"

namespace nibble::cuda {

cudaError_t StartGroupsInt8F16(const TiledLinear& call, cudaStream_t stream) {
  return StartInt8<WarpGroupKernels, F16>(call, stream);
}

}  // namespace nibble::cuda

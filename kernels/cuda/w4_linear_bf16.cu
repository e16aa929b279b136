#include "kernels/cuda/w4_linear.cuh"

namespace nibble::cuda {
cudaError_t StartW4Bf16(const W4Linear& call, cudaStream_t stream) {
  return StartW4<Bf16>(call, stream);
}
}  // namespace nibble::cuda

// Prefill attention over caches of 8-bit codes.
#include "kernels/cuda/prefill_kernel.cuh"

namespace nibble::cuda {
cudaError_t StartPrefillCodes(const PrefillAttention& call, cudaStream_t stream) {
  return call.cache_dtype == DType::kI8 ? StartPrefill<I8Codes>(call, stream)
                                        : StartPrefill<E4m3Codes>(call, stream);
}
}  // namespace nibble::cuda

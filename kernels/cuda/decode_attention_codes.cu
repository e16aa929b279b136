// Decode attention over caches of 8-bit codes.
#include "kernels/cuda/decode_kernel.cuh"

namespace nibble::cuda {
cudaError_t StartDecodeCodes(const DecodeAttention& call, cudaStream_t stream) {
  return call.cache_dtype == DType::kI8 ? StartDecode<I8Codes>(call, stream)
                                        : StartDecode<E4m3Codes>(call, stream);
}
}  // namespace nibble::cuda

#include <cstdint>

#include "kernels/cuda/prefill_attention.h"
#include "kernels/cuda/prefill_kernel.cuh"

namespace nibble::cuda {

cudaError_t StartPrefillCodes(const PrefillAttention& call, cudaStream_t stream);  // .._codes.cu

namespace {

bool IsAligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

cudaError_t LaunchPrefillAttention(const PrefillAttention& call, cudaStream_t stream) {
  const bool has_shape = call.num_seqs > 0 && call.num_kv_heads > 0 && call.num_heads > 0 &&
                         call.num_heads % call.num_kv_heads == 0 &&
                         call.num_heads / call.num_kv_heads <= kBlockColumns && call.max_rows > 0 &&
                         HasDecodeKernel(call.head_dim);
  const bool is_aligned = IsAligned(call.k, 16) && IsAligned(call.v, 16) && IsAligned(call.q, 16) &&
                          call.q_stride % 8 == 0 && IsAligned(call.out, 8) &&
                          call.out_stride % 4 == 0;
  if (!HasCacheKernel(call.dtype, call.cache_dtype, call.block_size)) return cudaErrorInvalidValue;
  if (!has_shape || !is_aligned) return cudaErrorInvalidValue;
  if (call.cache_dtype == call.dtype) return StartPrefill<HalfCodes>(call, stream);
  return StartPrefillCodes(call, stream);
}

}  // namespace nibble::cuda

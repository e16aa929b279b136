#include <cstdint>

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/decode_kernel.cuh"

namespace nibble::cuda {

cudaError_t StartDecodeCodes(const DecodeAttention& call, cudaStream_t stream);  // .._codes.cu

namespace {

bool IsAligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

int64_t DecodeCounterBytes(const DecodeAttention& call) {
  return (int64_t{call.num_seqs} * Packs(call) * 4 + 127) / 128 * 128;
}

int64_t DecodeWorkspaceBytes(const DecodeAttention& call) {
  const int64_t blocks = int64_t{call.num_seqs} * Packs(call) * Splits(call);
  return DecodeCounterBytes(call) + blocks * kHeads * (call.head_dim + 2) * 4;
}

cudaError_t LaunchDecodeAttention(const DecodeAttention& call, cudaStream_t stream) {
  const bool has_shape = call.num_seqs > 0 && call.num_kv_heads > 0 && call.num_heads > 0 &&
                         call.num_heads % call.num_kv_heads == 0 && call.max_context > 0 &&
                         HasDecodeKernel(call.head_dim);
  const bool is_aligned = IsAligned(call.k, 16) && IsAligned(call.v, 16) &&
                          IsAligned(call.workspace, 16) && IsAligned(call.q, 16) &&
                          call.q_stride % 8 == 0 && IsAligned(call.out, 8) &&
                          call.out_stride % 4 == 0;
  if (!HasCacheKernel(call.dtype, call.cache_dtype, call.block_size)) return cudaErrorInvalidValue;
  if (!has_shape || !is_aligned || call.workspace == nullptr) return cudaErrorInvalidValue;
  if (call.cache_dtype == call.dtype) return StartDecode<HalfCodes>(call, stream);
  return StartDecodeCodes(call, stream);
}

}  // namespace nibble::cuda

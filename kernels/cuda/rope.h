// Rotary position embedding of q and k in place, and the store of k and v into the paged cache.
//
// The cache's layer is k, v [num_blocks, num_kv_heads] head blocks each, as kv_layout.h says: a
// token's row of one head is one run of bytes. (The CPU's keeps k transposed; only whole blocks may
// be copied, and only between caches of one backend.) 8-bit rows are scaled and rounded as the
// CPU's are: the same codes and scale for the same row.
//
// A block a token. Memory-bound and small. Needs sm_80. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

// As RopeStoreKvParams in kernels/ops.h.
struct RopeStoreCall {
  DType dtype = DType::kBf16;  // of qkv; or kF16
  void* qkv = nullptr;         // [tokens, (num_heads + 2 * num_kv_heads) * head_dim]: q.., k.., v..
  int32_t qkv_stride = 0;
  int32_t tokens = 0;
  int32_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int32_t rotary_dim = 0;          // even, at most head_dim; the rest of a head passes through
  bool half_layout = false;        // pairs (i, i + rotary_dim / 2); else (2i, 2i + 1)
  const float* cos_sin = nullptr;  // [max_position, rotary_dim]: cos of pair i at 2i, sin at 2i + 1
  const int32_t* positions = nullptr;  // [tokens]
  const int32_t* slots = nullptr;      // [tokens]: slot % block_size of block slot / block_size
  DType cache_dtype = DType::kBf16;    // or kF16, kI8, kF8E4M3
  void* k = nullptr;
  void* v = nullptr;
  int32_t block_size = 0;
};

// Asynchronous. Values are rounded once from f32, into qkv and into the cache.
// cudaErrorInvalidValue for an odd head_dim or rotary_dim, a rotary_dim above head_dim, no tokens,
// another dtype, and with 8-bit codes a head_dim above 256 or a block_size that is no multiple of
// 4; else the launch's error.
cudaError_t LaunchRopeStore(const RopeStoreCall& call, cudaStream_t stream);

}  // namespace nibble::cuda

// Attention for decode: one query row a sequence over its paged cache (kv_layout.h), 16-bit or
// 8-bit, grouped-query heads packed together.
//
// How: a block takes 256 positions (a split) of one kv head of one sequence and up to 8 of the
// query heads that share it. Positions are the 16-row operand of mma m16n8k16 and heads its 8
// columns. Of every tile of 64 positions each of 4 warps scores 16, all take the weights from all
// scores, and each adds up a quarter of the dimensions of v, with weights as two 16-bit halves, so
// that they are exact to 2^-16. Splits are folded in ascending order by the one that arrives last:
// what a row gets depends on its length alone, never on its neighbours, and is what prefill
// (prefill_attention.h, which says on what conditions) gives it, bit for bit.
//
// 8-bit codes are widened to 16 bits, exactly, in the registers of the one warp that reads them;
// their scales multiply scores and weights in f32. Instructions bound these caches, so there each
// warp also makes the weights of its own positions only, and the block tells them all.
//
// Memory-bound: reads each sequence's k and v once for each 8 heads of a group. Needs sm_80. Has
// run on sm_90 alone, an H200; what it does with 8-bit codes has changed since.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

// Positions whose sums are made apart and folded in order; by position alone, never by how many
// blocks would fill a device.
inline constexpr int32_t kAttentionSplit = 256;
constexpr bool HasDecodeKernel(int32_t head_dim) {
  return head_dim == 32 || head_dim == 64 || head_dim == 128;
}

struct DecodeAttention {
  DType dtype = DType::kBf16;        // of q and out; or kF16
  DType cache_dtype = DType::kBf16;  // as dtype, or kI8, kF8E4M3
  const void* q = nullptr;  // [num_seqs, num_heads * head_dim], rows q_stride elements apart
  int32_t q_stride = 0;     // a multiple of 8; q is 16-byte aligned
  int32_t num_seqs = 0, num_heads = 0, num_kv_heads = 0;
  int32_t head_dim = 0;  // 32, 64 or 128
  const void* k =
      nullptr;  // [num_blocks, num_kv_heads] head blocks of kv_layout.h, 16-byte aligned
  const void* v = nullptr;
  int32_t block_size = 0;
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]
  int32_t max_blocks = 0;
  const int32_t* context_lens = nullptr;  // [num_seqs], 1 .. max_context
  int32_t max_context = 0;                // decides the grid, no result
  float scale = 0;                        // of q . k
  void* out = nullptr;                    // [num_seqs, num_heads * head_dim], 8-byte aligned
  int32_t out_stride = 0;                 // a multiple of 4
  void* workspace =
      nullptr;  // DecodeWorkspaceBytes, zeros before the first call; a call leaves them usable
};

// Its first DecodeCounterBytes are the zeros. 16-byte aligned.
int64_t DecodeCounterBytes(const DecodeAttention& call);
int64_t DecodeWorkspaceBytes(const DecodeAttention& call);

// Asynchronous. cudaErrorInvalidValue for another head_dim, dtype or cache, heads that kv heads do
// not divide, empty or misaligned operands, or a missing workspace; else the launch's error.
cudaError_t LaunchDecodeAttention(const DecodeAttention& call, cudaStream_t stream);

}  // namespace nibble::cuda

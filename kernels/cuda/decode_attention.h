// Attention for decode: one query row a sequence over its paged cache (16-bit, in the layout of
// rope.h), grouped-query heads packed together.
//
// How: a block takes 256 positions (a split) of one kv head of one sequence and up to 8 of the
// query heads that share it. Positions are the 16-row operand of mma m16n8k16 and heads its 8
// columns; each of 4 warps keeps a running maximum and sum over its own 16 of every 64 positions
// (online softmax, arXiv 1805.02867). Weights of v enter the second product as two 16-bit halves,
// so that they are exact to 2^-16. Warps, then splits, are merged in ascending order, the latter by
// the split that arrives last: what a row gets depends on its length alone, never on its
// neighbours.
//
// Memory-bound: reads each sequence's k and v once for each 8 heads of a group. Needs sm_80. Never
// run on a GPU yet.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

inline constexpr int32_t kDecodeSplit = 256;  // positions

struct DecodeAttention {
  DType dtype = DType::kBf16;  // of q, cache and out; or kF16
  const void* q = nullptr;     // [num_seqs, num_heads * head_dim], rows q_stride elements apart
  int32_t q_stride = 0;        // even, as the address / 2
  int32_t num_seqs = 0, num_heads = 0, num_kv_heads = 0;
  int32_t head_dim = 0;     // 64 or 128
  const void* k = nullptr;  // [num_blocks, num_kv_heads, block_size, head_dim], 16-byte aligned
  const void* v = nullptr;
  int32_t block_size = 0;
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]
  int32_t max_blocks = 0;
  const int32_t* context_lens = nullptr;  // [num_seqs], 1 .. max_context
  int32_t max_context = 0;                // decides the grid, no result
  float scale = 0;                        // of q . k
  void* out = nullptr;                    // [num_seqs, num_heads * head_dim]
  int32_t out_stride = 0;
  void* workspace =
      nullptr;  // DecodeWorkspaceBytes, zeros before the first call; a call leaves them usable
};

// Its first DecodeCounterBytes are the zeros. 16-byte aligned.
int64_t DecodeCounterBytes(const DecodeAttention& call);
int64_t DecodeWorkspaceBytes(const DecodeAttention& call);

// Asynchronous. cudaErrorInvalidValue for another head_dim or dtype, heads that kv heads do not
// divide, empty or misaligned operands, or a missing workspace; else the launch's error.
cudaError_t LaunchDecodeAttention(const DecodeAttention& call, cudaStream_t stream);

}  // namespace nibble::cuda

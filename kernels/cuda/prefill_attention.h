// Attention for chunks of prompts: several query rows a sequence over its paged cache
// (kv_layout.h), causal, grouped-query heads packed together; sequences of any chunk lengths and
// start positions in one launch.
//
// How (after FlashAttention-2, arXiv 2307.08691, with the operands the other way round): a block
// takes 128 columns, a column being one query head of one row, of one kv head of one sequence; each
// of 8 warps owns 16 of them and goes over all positions that the last of its rows sees, in tiles
// of 64 that the block shares. Positions are the 16-row operand of mma m16n8k16.
//
// Batch-invariant, and one with decode_attention.h: a row's bits follow from its q, its position
// and its sequence's cache. Not from how its prompt was chunked, its neighbours in the chunk or the
// launch, the block table's order, nor from which of the two kernels it went through: both take
// their steps from attention_tile.cuh and attention_columns.cuh (the same mma on the same operands
// in the same k-order, products and sums that the compiler may not contract, splits of 256
// positions by absolute position). On two conditions:
//   - an element of an mma depends on its row of A, its column of B and its accumulator only, and
//     zero products leave the accumulator's bits. The emulator's does so; NVIDIA does not document
//     it, and no GPU has confirmed it yet.
//   - the cache is finite. A row's tile may hold later rows of its own chunk: their weight is 0,
//   but
//     0 times a NaN or an infinity of v is a NaN.
//
// Compute-bound from a few dozen columns on: 4 * head_dim FLOP a column and position, and half as
// many again for the weights' second halves. Each 128 columns read k and v of their positions once.
// Needs sm_80. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

// As AttentionParams in kernels/ops.h: the rows of sequence s are cu_seqlens_q[s] ..
// cu_seqlens_q[s + 1] - 1, the last of its context, their own k and v already stored.
struct PrefillAttention {
  DType dtype = DType::kBf16;        // of q and out; or kF16
  DType cache_dtype = DType::kBf16;  // as dtype, or kI8, kF8E4M3
  const void* q = nullptr;           // [tokens, num_heads * head_dim], 16-byte aligned
  int32_t q_stride = 0;              // elements, a multiple of 8
  int32_t num_seqs = 0, num_heads = 0, num_kv_heads = 0;
  int32_t head_dim = 0;  // 32, 64 or 128
  const void* k =
      nullptr;  // [num_blocks, num_kv_heads] head blocks of kv_layout.h, 16-byte aligned
  const void* v = nullptr;
  int32_t block_size = 0;
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]
  int32_t max_blocks = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1]; a sequence may have no rows
  const int32_t* context_lens = nullptr;  // [num_seqs], at least the sequence's rows
  int32_t max_rows = 0;                   // of any sequence; decides the grid, no result
  float scale = 0;                        // of q . k
  void* out = nullptr;                    // [tokens, num_heads * head_dim], 8-byte aligned
  int32_t out_stride = 0;                 // a multiple of 4
};

// Asynchronous. cudaErrorInvalidValue for another head_dim, dtype or cache, heads that kv heads do
// not divide, more than 128 heads a kv head, and empty or misaligned operands; else the launch's
// error.
cudaError_t LaunchPrefillAttention(const PrefillAttention& call, cudaStream_t stream);

}  // namespace nibble::cuda

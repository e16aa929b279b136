// Causal attention over the paged cache on the CPU (the op is specified in kernels/ops.h).
//
// Flash attention (arXiv 2205.14135) with boundaries fixed by absolute position, so that a token's
// output has one arithmetic whatever is around it: a query row visits tiles of kTile positions in
// order with an online softmax (powers of two: log2(e) goes into q's scale); every kSplit positions
// the running (max, sum, weighted v) is closed and folded, left to right, into the row's total. A
// prefill chunk folds as it goes; a lone decode row may compute its splits on several threads and
// the last to finish folds them: same operations, same order, same bits.
//
// The q heads that share a kv head are rows of one small matrix product. Many rows (prefill) share
// a tile of k and v converted once; few rows (decode) multiply what they read from the cache's own
// lines, each touched once. Both are one loop over a source of rows, so a row's bits are the same.
// A scale of the cache goes onto the finished score of its position, and onto the weight of its v:
// never onto a code. k lies transposed inside a block, [head_dim, block_size], so scores of
// neighbouring positions are contiguous.
//
// Products are of f32 (attention_f32_inl.h), or of pairs of bf16 that are added up in f32
// (attention_bf16_avx512.h; isa.h says where). Pairs are two dimensions of a position's k, and two
// positions of v: 2i and 2i + 1 by absolute number, so that they do not depend on chunks or blocks.
// The second half of a pair that a row does not see, or that is behind the last dimension, is zero
// on both sides, for 0 * NaN is none. Scores, softmax and sums stay f32. A row's sum of weights is
// of weights before they are rounded, as in FlashAttention: a scale of v is part of what is rounded
// but not of the sum, and sums of rounded weights were no nearer (KL 0.000055 both ways).
#pragma once

#include <cstdint>

namespace nibble::cpu {

inline constexpr int32_t kTile =
    64;  // positions; k and v tiles of a 64-wide head fill 32 KiB, an L1
inline constexpr int32_t kSplit =
    256;  // positions; a decode row at 4k context becomes 16 parallel pieces
inline constexpr int32_t kMaxQueryRows =
    96;  // of one piece: enough to pay for widening a tile, small enough for L2

// Neighbouring query tokens of one sequence, and the q heads of one kv head.
struct AttentionPiece {
  const float* q = nullptr;  // the first token's first head; heads are contiguous
  int64_t q_stride = 0;      // floats from token to token
  int32_t num_tokens = 0;
  int32_t group = 0;  // q heads; query row r is token r / group, head r % group
  int32_t head_dim = 0;
  int32_t first_position = 0;  // of the first token; it sees positions 0 .. first_position
  int32_t end_position = 0;    // behind the last position that is computed together with this one
  const uint8_t* k = nullptr;  // the layer's cache at the kv head: block b at + b * block_bytes
  const uint8_t* v = nullptr;
  int64_t block_bytes = 0;
  int32_t block_size = 0;
  const int32_t* block_table = nullptr;
  float scale = 0;

  // What the same thread computes next, from that position on: its first lines are asked for while
  // this piece's last tile is computed, and changes nothing else. May be null.
  const AttentionPiece* ahead = nullptr;
  int32_t ahead_position = 0;
};

// Floats of one row's state: [0] max, [1] sum, [2 .. 2 + head_dim) the weighted sum of v.
constexpr int32_t RowState(int32_t head_dim) { return 2 + head_dim; }
// Floats of scratch for pieces of up to `rows` rows (any instruction set: 16 is the widest vector).
constexpr int64_t AttentionScratchFloats(int32_t rows, int32_t head_dim) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  const int64_t row_floats = padded + padded + kTile + 16 + 3;  // q, out, scores, sum; max, ..
  return 16 + kTile * (padded + padded + 2) + rows * row_floats + 3 * 16;  // 16: to begin a line
}

// `state` [rows, RowState] becomes positions split .. split + kSplit - 1 of each row; sum 0 where a
// row sees none.
using AttendSplitFn = void (*)(const AttentionPiece& piece, int32_t split, float* scratch,
                               float* state);
// total = fold(total, state), a row with sum 0 being neutral.
using FoldSplitFn = void (*)(int32_t rows, int32_t head_dim, const float* state, float* total);
// out [head_dim] = the weighted mean of a row that sees a position: its weighted sum / its sum.
using WeightedMeanFn = void (*)(int32_t head_dim, const float* state, float* out);

}  // namespace nibble::cpu

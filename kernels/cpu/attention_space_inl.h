// Where attention's operands are: blocks of the cache, rows and tiles of the scratch. Included by
// attention_inl.h's rooms.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"

namespace nibble::cpu {
namespace {

// Up to this many rows a vector of k or v is converted at most twice (row blocks of 4), which is
// cheaper than storing it widened and reading it back.
constexpr int32_t kDirectRows = 8;
constexpr int32_t kLineBytes = 64;
constexpr int32_t kLineFloats = kLineBytes / sizeof(float);

template <class V>
constexpr int32_t RoundUp(int32_t n) {
  return (n + V::kWidth - 1) / V::kWidth * V::kWidth;
}

// Positions of one block that lie in a tile.
struct BlockRun {
  int64_t block;   // where the head's block begins in the cache, in bytes
  int32_t offset;  // of the first position in the block
  int32_t length;
};

// From `position` on, at most `left` of them.
inline BlockRun RunAt(const AttentionPiece& piece, int32_t position, int32_t left) {
  const int32_t offset = position & (piece.block_size - 1);
  const int32_t in_block = piece.block_size - offset;
  const int32_t block = piece.block_table[position >> __builtin_ctz(piece.block_size)];
  return {block * piece.block_bytes, offset, in_block < left ? in_block : left};
}

template <class Codec>
const typename Codec::Code* KeyCodes(const AttentionPiece& piece, const BlockRun& run) {
  return reinterpret_cast<const typename Codec::Code*>(piece.k + run.block) + run.offset;
}
template <class Codec>
const typename Codec::Code* ValueCodes(const AttentionPiece& piece, const BlockRun& run) {
  return reinterpret_cast<const typename Codec::Code*>(piece.v + run.block) +
         int64_t{run.offset} * piece.head_dim;
}

// The codes of the next tile, at the place of `run`, position j of this tile: of this piece, else
// of the piece ahead, else `run` itself.
struct RunAhead {
  RunAhead(const AttentionPiece& current, int32_t tile, int32_t j, const BlockRun& current_run)
      : piece(&current) {
    int32_t position = tile + kTile + j;
    if (position >= current.end_position && current.ahead != nullptr) {
      piece = current.ahead;
      position = current.ahead_position + j;
    }
    if (position < piece->end_position) {
      run = RunAt(*piece, position, kTile - j);
    } else {
      piece = &current;
      run = current_run;
    }
  }
  const AttentionPiece* piece;
  BlockRun run;
};

// Views into one piece's scratch, for a policy P of products (attention_f32_inl.h): kSpan rows of k
// or v lie joined in a row of their tile, as many operands in one float's place.
template <class P>
struct AttentionSpace {
  using V = typename P::V;
  AttentionSpace(const AttentionPiece& piece, float* scratch) {
    rows = piece.num_tokens * piece.group;
    padded = RoundUp<V>(piece.head_dim);
    q_steps = (piece.head_dim + P::kSpan - 1) / P::kSpan;
    q_stride = padded / P::kSpan;
    direct = rows <= kDirectRows && padded == piece.head_dim && piece.block_size % V::kWidth == 0;
    // A vector that lies across two lines costs two reads.
    float* end = scratch + -(reinterpret_cast<uintptr_t>(scratch) / sizeof(float)) % kLineFloats;
    const auto take = [&end](int64_t floats) {
      float* const begin = end;
      end += floats;
      return begin;
    };
    k_tile = take(kTile * q_steps);
    v_tile = take(kTile / P::kSpan * padded);
    k_scale = take(kTile);
    v_scale = take(kTile);
    out = take(int64_t{rows} * padded);
    scores = take(int64_t{rows} * kTile);
    sum = take(int64_t{rows} * V::kWidth);
    q = take(int64_t{rows} * q_stride);
    max = take(RoundUp<V>(rows));
    next_max = take(RoundUp<V>(rows));
    rescale = take(RoundUp<V>(rows));
  }
  static_assert(V::kWidth % P::kSpan == 0 && kTile % P::kSpan == 0);
  int32_t rows, padded;
  int32_t q_steps, q_stride;        // of a row of q: those in use, and all
  bool direct;                      // k and v are not joined into tiles
  float *k_tile, *v_tile;           // [q_steps, kTile], [kTile / kSpan, padded]
  float *k_scale, *v_scale;         // [kTile], of types that have them
  float *q, *out;                   // [rows, q_stride], [rows, padded]
  float* scores;                    // [rows, kTile]; then weights, the first kTile / kSpan of them
  float* sum;                       // [rows, kWidth], lane by lane; added up when the split ends
  float *max, *next_max, *rescale;  // [rows]
};

// Tile positions that the piece's query token sees.
inline int32_t Seen(const AttentionPiece& piece, int32_t token, int32_t tile) {
  const int32_t n = piece.first_position + token + 1 - tile;
  return n < 0 ? 0 : n < kTile ? n : kTile;
}

template <int N>
struct Count {
  static constexpr int kValue = N;
};

// body(Count<R>, r) for blocks of R rows from r on, the largest R first; returns the first row
// left.
template <int... R, class Body>
[[gnu::always_inline]] inline int32_t ForRowBlocks(int32_t r, int32_t end, const Body& body) {
  const auto run = [&](auto count) {
    for (; r + count.kValue <= end; r += count.kValue) body(count, r);
  };
  (run(Count<R>{}), ...);
  return r;
}

}  // namespace
}  // namespace nibble::cpu

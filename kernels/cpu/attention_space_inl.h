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

// Views into one piece's scratch.
template <class V>
struct AttentionSpace {
  AttentionSpace(const AttentionPiece& piece, float* scratch) {
    rows = piece.num_tokens * piece.group;
    padded = RoundUp<V>(piece.head_dim);
    direct = rows <= kDirectRows && padded == piece.head_dim && piece.block_size % V::kWidth == 0;
    float* end = scratch;
    const auto take = [&end](int64_t floats) {
      float* const begin = end;
      end += floats;
      return begin;
    };
    k_tile = take(kTile * padded);
    v_tile = take(kTile * padded);
    k_scale = take(kTile);
    v_scale = take(kTile);
    q = take(int64_t{rows} * padded);
    out = take(int64_t{rows} * padded);
    scores = take(int64_t{rows} * kTile);
    sum = take(int64_t{rows} * V::kWidth);
    max = take(RoundUp<V>(rows));
    next_max = take(RoundUp<V>(rows));
    rescale = take(RoundUp<V>(rows));
  }
  int32_t rows, padded;
  bool direct;                      // k and v are not widened into tiles
  float *k_tile, *v_tile;           // [head_dim, kTile], [kTile, padded]
  float *k_scale, *v_scale;         // [kTile], of types that have them
  float *q, *out;                   // [rows, padded]
  float* scores;                    // [rows, kTile]
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

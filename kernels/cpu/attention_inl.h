// The arithmetic of attention.h, written once for every vector width. Included by one translation
// unit per ISA.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"

namespace nibble::cpu {
namespace {

template <class V>
constexpr int32_t Padded(int32_t head_dim) {
  return (head_dim + V::kWidth - 1) / V::kWidth * V::kWidth;
}

// Positions position .. of one block that lie in a tile with `left` positions to go.
struct BlockRun {
  int64_t block;   // where the block begins in the cache, in elements
  int32_t offset;  // of the position in the block
  int32_t length;
};

inline BlockRun RunAt(const AttentionPiece& piece, int32_t position, int32_t left) {
  const int32_t offset = position & (piece.block_size - 1);
  const int32_t in_block = piece.block_size - offset;
  const int32_t block = piece.block_table[position / piece.block_size];
  return {block * piece.block_elements, offset, in_block < left ? in_block : left};
}

// k_tile [head_dim, kTile] = k of positions tile .. tile + n - 1, widened. Columns past n are not
// defined.
template <class V>
void LoadKeyTile(const AttentionPiece& piece, int32_t tile, int32_t n, float* k_tile) {
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const uint16_t* from = piece.k + run.block + run.offset;
    float* to = k_tile + j;
    for (int32_t d = 0; d < piece.head_dim; ++d, from += piece.block_size, to += kTile) {
      int32_t i = 0;
      for (; i + V::kWidth <= run.length; i += V::kWidth) V::Store(to + i, V::LoadF16(from + i));
      if (i == run.length) continue;
      V::StorePartial(to + i, V::LoadF16Partial(from + i, run.length - i), run.length - i);
    }
    j += run.length;
  }
}

// v_tile [n, padded head_dim], zeros in the padding.
template <class V>
void LoadValueTile(const AttentionPiece& piece, int32_t tile, int32_t n, float* v_tile) {
  const int32_t head_dim = piece.head_dim, padded = Padded<V>(head_dim);
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, n - j);
    const uint16_t* from = piece.v + run.block + int64_t{run.offset} * head_dim;
    const int32_t end = j + run.length;
    for (; j < end; ++j, from += head_dim) {
      float* to = v_tile + j * padded;
      int32_t d = 0;
      for (; d + V::kWidth <= head_dim; d += V::kWidth) V::Store(to + d, V::LoadF16(from + d));
      if (d < head_dim) V::Store(to + d, V::LoadF16Partial(from + d, head_dim - d));
    }
  }
}

// Asks for the k and v of the tile after this one, so that they arrive while this one is computed.
inline void PrefetchTile(const AttentionPiece& piece, int32_t tile, int32_t n) {
  constexpr int32_t kLine = 32;  // halves
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const uint16_t* k = piece.k + run.block + run.offset;
    for (int32_t d = 0; d < piece.head_dim; ++d) __builtin_prefetch(k + d * piece.block_size);
    const uint16_t* v = piece.v + run.block + int64_t{run.offset} * piece.head_dim;
    for (int32_t i = 0; i < run.length * piece.head_dim; i += kLine) __builtin_prefetch(v + i);
    j += run.length;
  }
}

// scores [R, kTile] = q [R, head_dim] * k_tile, each sum in the order of d.
template <class V, int R>
void ScoreRows(const float* q, int32_t q_stride, const float* k_tile, int32_t head_dim,
               float* scores) {
  constexpr int C = V::kColBlock;
  for (int32_t j = 0; j < kTile; j += C * V::kWidth) {
    typename V::Reg sum[R][C];
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) sum[r][c] = V::Zero();
    }
    for (int32_t d = 0; d < head_dim; ++d) {
      typename V::Reg k[C];
      for (int c = 0; c < C; ++c) k[c] = V::Load(k_tile + d * kTile + j + c * V::kWidth);
      for (int r = 0; r < R; ++r) {
        const typename V::Reg x = V::Set1(q[r * q_stride + d]);
        for (int c = 0; c < C; ++c) sum[r][c] = V::Fma(x, k[c], sum[r][c]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int c = 0; c < C; ++c) V::Store(scores + r * kTile + j + c * V::kWidth, sum[r][c]);
    }
  }
}

// Turns the first n scores of a row into exp(score - max), updates max and sum, and returns what
// the row's earlier sums must be multiplied by.
template <class V>
[[gnu::always_inline]] inline float SoftmaxRow(float* scores, int32_t n, float* max, float* sum) {
  using Reg = typename V::Reg;
  const Reg lowest = V::Set1(-__builtin_inff());
  Reg top = lowest;
  for (int32_t j = 0; j < n; j += V::kWidth) {
    top = V::Max(top, V::KeepFirst(V::Load(scores + j), n - j, lowest));
  }
  const float tile_max = V::ReduceMax(top);
  const float new_max = tile_max > *max ? tile_max : *max;
  const float rescale = V::ReduceMax(V::Exp(V::Set1(*max - new_max)));
  const Reg shift = V::Set1(new_max);
  Reg total = V::Zero();
  for (int32_t j = 0; j < n; j += V::kWidth) {
    const Reg p = V::KeepFirst(V::Exp(V::Sub(V::Load(scores + j), shift)), n - j, V::Zero());
    V::Store(scores + j, p);
    total = V::Add(total, p);
  }
  *sum = *sum * rescale + V::ReduceAdd(total);
  *max = new_max;
  return rescale;
}

// out [R, C * kWidth columns] = out * rescale + p [R, n] * v_tile, in the order of the positions.
template <class V, int R, int C>
void WeighColumns(const float* p, int32_t n, const float* v, int32_t v_stride, const float* rescale,
                  float* out, int32_t out_stride) {
  typename V::Reg sum[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) {
      sum[r][c] = V::Mul(V::Load(out + r * out_stride + c * V::kWidth), V::Set1(rescale[r]));
    }
  }
  for (int32_t j = 0; j < n; ++j) {
    typename V::Reg x[C];
    for (int c = 0; c < C; ++c) x[c] = V::Load(v + j * v_stride + c * V::kWidth);
    for (int r = 0; r < R; ++r) {
      const typename V::Reg weight = V::Set1(p[r * kTile + j]);
      for (int c = 0; c < C; ++c) sum[r][c] = V::Fma(weight, x[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) V::Store(out + r * out_stride + c * V::kWidth, sum[r][c]);
  }
}

template <class V, int R>
void WeighRows(const float* p, int32_t n, const float* v, int32_t padded, const float* rescale,
               float* out) {
  constexpr int32_t kStep = V::kColBlock * V::kWidth;
  int32_t d = 0;
  for (; d + kStep <= padded; d += kStep) {
    WeighColumns<V, R, V::kColBlock>(p, n, v + d, padded, rescale, out + d, padded);
  }
  for (; d < padded; d += V::kWidth) {
    WeighColumns<V, R, 1>(p, n, v + d, padded, rescale, out + d, padded);
  }
}

// Views into one piece's scratch.
template <class V>
struct AttentionSpace {
  AttentionSpace(const AttentionPiece& piece, float* scratch) {
    rows = piece.num_tokens * piece.group;
    padded = Padded<V>(piece.head_dim);
    k_tile = scratch;
    v_tile = k_tile + kTile * padded;
    q = v_tile + kTile * padded;
    out = q + rows * padded;
    scores = out + rows * padded;
    max = scores + rows * kTile;
    sum = max + rows;
    rescale = sum + rows;
  }
  int32_t rows, padded;
  float *k_tile, *v_tile, *q, *out, *scores, *max, *sum, *rescale;
};

// Tile positions that query row r sees.
inline int32_t Seen(const AttentionPiece& piece, int32_t row, int32_t tile) {
  const int32_t n = piece.first_position + row / piece.group + 1 - tile;
  return n < 0 ? 0 : n < kTile ? n : kTile;
}

template <int N>
struct RowCount {
  static constexpr int kRows = N;
};

template <class V>
void AttendTile(const AttentionPiece& piece, int32_t tile, const AttentionSpace<V>& at) {
  int32_t first = 0;  // the first row that sees any of the tile: later tokens see more
  while (Seen(piece, first, tile) == 0) first += piece.group;
  const int32_t loaded = Seen(piece, at.rows - 1, tile);
  LoadKeyTile<V>(piece, tile, loaded, at.k_tile);
  LoadValueTile<V>(piece, tile, loaded, at.v_tile);
  const int32_t next = tile + kTile;
  if (next < piece.first_position + piece.num_tokens) {
    PrefetchTile(piece, next, Seen(piece, at.rows - 1, next));
  }

  constexpr int R = V::kRowBlock;
  int32_t r = first;
  const auto score = [&](auto block) {
    constexpr int kRows = decltype(block)::kRows;
    for (; r + kRows <= at.rows; r += kRows) {
      ScoreRows<V, kRows>(at.q + r * at.padded, at.padded, at.k_tile, piece.head_dim,
                          at.scores + r * kTile);
    }
  };
  score(RowCount<R>{});
  score(RowCount<R / 2>{});
  score(RowCount<1>{});

  for (r = first; r < at.rows; ++r) {
    const int32_t n = Seen(piece, r, tile);
    float* scores = at.scores + r * kTile;
    at.rescale[r] = n == kTile  // nearly always: a constant length needs no masks
                        ? SoftmaxRow<V>(scores, kTile, at.max + r, at.sum + r)
                        : SoftmaxRow<V>(scores, n, at.max + r, at.sum + r);
  }
  // Rows of a block must see equally many positions: a weight of 0 for an unseen one is not neutral
  // (0 * inf).
  for (r = first; r < at.rows;) {
    const int32_t n = Seen(piece, r, tile);
    int32_t end = r;
    while (end < at.rows && Seen(piece, end, tile) == n) end += piece.group;
    const auto weigh = [&](auto block) {
      constexpr int kRows = decltype(block)::kRows;
      for (; r + kRows <= end; r += kRows) {
        WeighRows<V, kRows>(at.scores + r * kTile, n, at.v_tile, at.padded, at.rescale + r,
                            at.out + r * at.padded);
      }
    };
    weigh(RowCount<R>{});
    weigh(RowCount<R / 2>{});
    weigh(RowCount<1>{});
  }
}

template <class V>
void AttendSplit(const AttentionPiece& piece, int32_t split, float* scratch, float* state) {
  const AttentionSpace<V> at(piece, scratch);
  for (int32_t r = 0; r < at.rows; ++r) {
    const float* q = piece.q + r / piece.group * piece.q_stride + r % piece.group * piece.head_dim;
    for (int32_t d = 0; d < piece.head_dim; ++d) at.q[r * at.padded + d] = q[d] * piece.scale;
    for (int32_t d = 0; d < at.padded; ++d) at.out[r * at.padded + d] = 0;
    at.max[r] = -__builtin_inff();
    at.sum[r] = 0;
  }
  const int32_t seen = piece.first_position + piece.num_tokens;
  const int32_t end = seen < split + kSplit ? seen : split + kSplit;
  for (int32_t tile = split; tile < end; tile += kTile) AttendTile<V>(piece, tile, at);

  for (int32_t r = 0; r < at.rows; ++r) {
    float* row = state + int64_t{r} * RowState(piece.head_dim);
    row[0] = at.max[r];
    row[1] = at.sum[r];
    for (int32_t d = 0; d < piece.head_dim; ++d) row[2 + d] = at.out[r * at.padded + d];
  }
}

template <class V>
void FoldSplit(int32_t rows, int32_t head_dim, const float* state, float* total) {
  const int32_t stride = RowState(head_dim);
  for (int32_t r = 0; r < rows; ++r, state += stride, total += stride) {
    if (state[1] == 0) continue;
    if (total[1] == 0) {
      for (int32_t d = 0; d < stride; ++d) total[d] = state[d];
      continue;
    }
    const float max = state[0] > total[0] ? state[0] : total[0];
    const float keep = V::ReduceMax(V::Exp(V::Set1(total[0] - max)));
    const float take = V::ReduceMax(V::Exp(V::Set1(state[0] - max)));
    total[0] = max;
    for (int32_t d = 1; d < stride; ++d) total[d] = total[d] * keep + state[d] * take;
  }
}

}  // namespace
}  // namespace nibble::cpu

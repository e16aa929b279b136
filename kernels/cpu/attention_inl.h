// The arithmetic of attention.h, written once for every vector width and cache type. Included by
// one translation unit per ISA. Here is the walk over tiles and splits; its rooms are beside it.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_load_inl.h"
#include "kernels/cpu/attention_products_inl.h"
#include "kernels/cpu/attention_softmax_inl.h"
#include "kernels/cpu/attention_space_inl.h"

namespace nibble::cpu {
namespace {

// --- few rows: from the cache's own lines -------------------------------------------------------

template <class P, class Codec>
void ScoreDirect(const AttentionPiece& piece, int32_t tile, int32_t n,
                 const AttentionSpace<P>& at) {
  using Rows = CacheRows<P, Codec>;
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const int32_t length = run.length < n - j ? run.length : RoundUp<typename P::V>(n - j);
    const RunAhead ahead(piece, tile, j, run);
    ForRowBlocks<4, 3, 2, 1>(0, at.rows, [&](auto count, int32_t r) {
      ScoreRows<P, Rows, count.kValue>(
          at.q + r * at.q_stride, at.q_stride, KeyCodes<Codec>(piece, run), piece.block_size,
          at.q_steps, KeyCodes<Codec>(*ahead.piece, ahead.run),
          Codec::kScaled ? at.k_scale + j : nullptr, length, at.scores + r * kTile + j);
    });
    j += run.length;
  }
}

// Rows first .. end - 1, all of which see n positions of the tile.
template <class P, class Codec>
void WeighDirect(const AttentionPiece& piece, int32_t tile, int32_t n, int32_t first, int32_t end,
                 const AttentionSpace<P>& at) {
  using Rows = CacheRows<P, Codec>;
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, n - j);
    const RunAhead ahead(piece, tile, j, run);
    ForRowBlocks<4, 3, 2, 1>(first, end, [&](auto count, int32_t r) {
      WeighRows<P, Rows, count.kValue>(
          at.scores + r * kTile + j / P::kSpan, run.length, ValueCodes<Codec>(piece, run),
          piece.head_dim, ValueCodes<Codec>(*ahead.piece, ahead.run),
          j == 0 ? at.rescale + r : nullptr, at.out + r * at.padded, at.padded);
    });
    j += run.length;
  }
}

// --- a tile, a split ----------------------------------------------------------------------------

template <class P, class Codec>
void ScoreTile(const AttentionPiece& piece, int32_t tile, int32_t first,
               const AttentionSpace<P>& at) {
  using V = typename P::V;
  const int32_t loaded = Seen(piece, piece.num_tokens - 1, tile);
  if constexpr (Codec::kScaled) LoadScales<P, Codec>(piece, tile, loaded, at);
  if (at.direct) return ScoreDirect<P, Codec>(piece, tile, loaded, at);

  LoadKeyTile<P, Codec>(piece, tile, loaded, at.k_tile);
  LoadValueTile<P, Codec>(piece, tile, loaded, at.v_tile);
  if (tile + kTile < piece.end_position) {
    PrefetchTile<Codec>(piece, tile + kTile);
  } else if (piece.ahead != nullptr) {
    PrefetchTile<Codec>(*piece.ahead, piece.ahead_position);
  }
  constexpr int R = V::kRowBlock;
  ForRowBlocks<R, R / 2, 1>(first * piece.group, at.rows, [&](auto count, int32_t r) {
    const int32_t n = RoundUp<V>(Seen(piece, (r + count.kValue - 1) / piece.group, tile));
    ScoreRows<P, TileRows<P>, count.kValue>(
        at.q + r * at.q_stride, at.q_stride, at.k_tile, kTile, at.q_steps, nullptr,
        Codec::kScaled ? at.k_scale : nullptr, n, at.scores + r * kTile);
  });
}

template <class P, class Codec>
void AttendTile(const AttentionPiece& piece, int32_t tile, const AttentionSpace<P>& at) {
  int32_t first = 0;  // the first token that sees any of the tile: later ones see more
  while (Seen(piece, first, tile) == 0) ++first;
  ScoreTile<P, Codec>(piece, tile, first, at);
  SoftmaxTile<P>(piece, tile, first, Codec::kScaled ? at.v_scale : nullptr, at);
  // Rows of a block must see equally many positions: a weight of 0 for an unseen one is not neutral
  // (0 * inf).
  for (int32_t t = first; t < piece.num_tokens;) {
    const int32_t n = Seen(piece, t, tile), begin = t * piece.group;
    while (t < piece.num_tokens && Seen(piece, t, tile) == n) ++t;
    const int32_t end = t * piece.group;
    if (at.direct) {
      WeighDirect<P, Codec>(piece, tile, n, begin, end, at);
      continue;
    }
    constexpr int R = P::V::kRowBlock;
    ForRowBlocks<R, R / 2, 1>(begin, end, [&](auto count, int32_t r) {
      WeighRows<P, TileRows<P>, count.kValue>(at.scores + r * kTile, n, at.v_tile, at.padded,
                                              nullptr, at.rescale + r, at.out + r * at.padded,
                                              at.padded);
    });
  }
}

template <class P, class Codec>
void AttendSplit(const AttentionPiece& piece, int32_t split, float* scratch, float* state) {
  using V = typename P::V;
  constexpr float kLog2E = 1.44269504f;
  const AttentionSpace<P> at(piece, scratch);
  const typename V::Reg scale = V::Set1(piece.scale * kLog2E);
  for (int32_t r = 0; r < at.rows; ++r) {
    const float* q = piece.q + r / piece.group * piece.q_stride + r % piece.group * piece.head_dim;
    for (int32_t d = 0; d < at.padded; d += V::kWidth) {
      const typename V::Reg x = V::Mul(V::LoadPartial(q + d, piece.head_dim - d), scale);
      P::StoreOperands(at.q + r * at.q_stride, d, x);
    }
    for (int32_t d = 0; d < at.padded; ++d) at.out[r * at.padded + d] = 0;
    for (int32_t i = 0; i < V::kWidth; ++i) at.sum[r * V::kWidth + i] = 0;
    at.max[r] = -__builtin_inff();
  }
  const int32_t seen = piece.first_position + piece.num_tokens;
  const int32_t end = seen < split + kSplit ? seen : split + kSplit;
  for (int32_t tile = split; tile < end; tile += kTile) AttendTile<P, Codec>(piece, tile, at);

  for (int32_t r = 0; r < at.rows; ++r) {
    float* row = state + int64_t{r} * RowState(piece.head_dim);
    row[0] = at.max[r];
    row[1] = V::ReduceAdd(V::Load(at.sum + r * V::kWidth));
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
    const float keep = V::ReduceMax(V::Exp2(V::Set1(total[0] - max)));
    const float take = V::ReduceMax(V::Exp2(V::Set1(state[0] - max)));
    total[0] = max;
    for (int32_t d = 1; d < stride; ++d) total[d] = total[d] * keep + state[d] * take;
  }
}

// Division is exact to the bit in every instruction set.
template <class V>
void WeightedMean(int32_t head_dim, const float* __restrict state, float* __restrict out) {
  int32_t d = 0;
  const typename V::Reg sum = V::Set1(state[1]);
  for (; d + V::kWidth <= head_dim; d += V::kWidth) {
    V::Store(out + d, V::Div(V::Load(state + 2 + d), sum));
  }
  for (; d < head_dim; ++d) out[d] = state[2 + d] / state[1];
}

}  // namespace
}  // namespace nibble::cpu

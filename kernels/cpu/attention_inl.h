// The arithmetic of attention.h, written once for every vector width and cache type. Included by
// one translation unit per ISA. Here is the walk over tiles and splits; its rooms are beside it.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_load_inl.h"
#include "kernels/cpu/attention_products_inl.h"
#include "kernels/cpu/attention_softmax_inl.h"
#include "kernels/cpu/attention_space_inl.h"
#include "kernels/cpu/kv_codec_inl.h"

namespace nibble::cpu {
namespace {

template <class V, class Codec>
void ScoreTile(const AttentionPiece& piece, int32_t tile, int32_t first,
               const AttentionSpace<V>& at) {
  const int32_t loaded = Seen(piece, piece.num_tokens - 1, tile);
  if constexpr (Codec::kScaled) LoadScales<V, Codec>(piece, tile, loaded, at);
  if (at.direct) return ScoreDirect<V, Codec>(piece, tile, loaded, at);

  LoadKeyTile<V, Codec>(piece, tile, loaded, at.k_tile);
  LoadValueTile<V, Codec>(piece, tile, loaded, at.v_tile);
  if (tile + kTile < piece.end_position) {
    PrefetchTile<Codec>(piece, tile + kTile);
  } else if (piece.ahead != nullptr) {
    PrefetchTile<Codec>(*piece.ahead, piece.ahead_position);
  }
  constexpr int R = V::kRowBlock;
  ForRowBlocks<R, R / 2, 1>(first * piece.group, at.rows, [&](auto count, int32_t r) {
    const int32_t n = RoundUp<V>(Seen(piece, (r + count.kValue - 1) / piece.group, tile));
    ScoreRows<V, F32Codec<V>, count.kValue>(
        at.q + r * at.padded, at.padded, at.k_tile, kTile, piece.head_dim, nullptr,
        Codec::kScaled ? at.k_scale : nullptr, n, at.scores + r * kTile);
  });
}

template <class V, class Codec>
void AttendTile(const AttentionPiece& piece, int32_t tile, const AttentionSpace<V>& at) {
  int32_t first = 0;  // the first token that sees any of the tile: later ones see more
  while (Seen(piece, first, tile) == 0) ++first;
  ScoreTile<V, Codec>(piece, tile, first, at);
  SoftmaxTile<V>(piece, tile, first, Codec::kScaled ? at.v_scale : nullptr, at);
  // Rows of a block must see equally many positions: a weight of 0 for an unseen one is not neutral
  // (0 * inf).
  for (int32_t t = first; t < piece.num_tokens;) {
    const int32_t n = Seen(piece, t, tile), begin = t * piece.group;
    while (t < piece.num_tokens && Seen(piece, t, tile) == n) ++t;
    const int32_t end = t * piece.group;
    if (at.direct) {
      WeighDirect<V, Codec>(piece, tile, n, begin, end, at);
      continue;
    }
    constexpr int R = V::kRowBlock;
    ForRowBlocks<R, R / 2, 1>(begin, end, [&](auto count, int32_t r) {
      WeighRows<V, F32Codec<V>, count.kValue>(at.scores + r * kTile, n, at.v_tile, at.padded,
                                              nullptr, at.rescale + r, at.out + r * at.padded,
                                              at.padded);
    });
  }
}

template <class V, class Codec>
void AttendSplit(const AttentionPiece& piece, int32_t split, float* scratch, float* state) {
  constexpr float kLog2E = 1.44269504f;
  const AttentionSpace<V> at(piece, scratch);
  const float scale = piece.scale * kLog2E;
  for (int32_t r = 0; r < at.rows; ++r) {
    const float* q = piece.q + r / piece.group * piece.q_stride + r % piece.group * piece.head_dim;
    for (int32_t d = 0; d < piece.head_dim; ++d) at.q[r * at.padded + d] = q[d] * scale;
    for (int32_t d = 0; d < at.padded; ++d) at.out[r * at.padded + d] = 0;
    for (int32_t i = 0; i < V::kWidth; ++i) at.sum[r * V::kWidth + i] = 0;
    at.max[r] = -__builtin_inff();
  }
  const int32_t seen = piece.first_position + piece.num_tokens;
  const int32_t end = seen < split + kSplit ? seen : split + kSplit;
  for (int32_t tile = split; tile < end; tile += kTile) AttendTile<V, Codec>(piece, tile, at);

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

}  // namespace
}  // namespace nibble::cpu

// The online softmax of attention.h: scores become weights, in place.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_space_inl.h"

namespace nibble::cpu {
namespace {

// next_max[r] = the largest of max[r] and the first n scores.
template <class V>
[[gnu::always_inline]] inline float MaxOfRow(const float* scores, int32_t n, float max) {
  const typename V::Reg lowest = V::Set1(-__builtin_inff());
  typename V::Reg top = lowest;
  for (int32_t j = 0; j < n; j += V::kWidth) {
    top = V::Max(top, V::KeepFirst(V::Load(scores + j), n - j, lowest));
  }
  const float tile_max = V::ReduceMax(top);
  return tile_max > max ? tile_max : max;
}

// Turns the first n scores of a row into weights 2^(score - max), times the scale of their v where
// there is one, and brings the row's sum (without such scales) up to date.
template <class P>
[[gnu::always_inline]] inline void WeightsOfRow(float* scores, int32_t n, float max, float rescale,
                                                const float* v_scale, float* sum) {
  using V = typename P::V;
  using Reg = typename V::Reg;
  const Reg shift = V::Set1(max);
  Reg total = V::Mul(V::Load(sum), V::Set1(rescale));
  for (int32_t j = 0; j < n; j += V::kWidth) {
    const Reg p = V::KeepFirst(V::Exp2(V::Sub(V::Load(scores + j), shift)), n - j, V::Zero());
    total = V::Add(total, p);
    // A scale past n may be anything, and a step may multiply a weight past n: it must be 0.
    const Reg weight =
        v_scale == nullptr ? p : V::KeepFirst(V::Mul(p, V::Load(v_scale + j)), n - j, V::Zero());
    P::StoreOperands(scores, j, weight);
  }
  V::Store(sum, total);
}

// Scores of the rows of tokens first .. become weights; max, rescale and sum are updated.
template <class P>
void SoftmaxTile(const AttentionPiece& piece, int32_t tile, int32_t first, const float* v_scale,
                 const AttentionSpace<P>& at) {
  using V = typename P::V;
  const int32_t first_row = first * piece.group;
  const int32_t begin = first_row / V::kWidth * V::kWidth;
  for (int32_t r = begin; r < first_row; ++r) at.next_max[r] = at.max[r];
  // A whole tile, which is nearly always, has a constant length: it needs no masks.
  for (int32_t t = first, r = first_row; t < piece.num_tokens; ++t) {
    const int32_t n = Seen(piece, t, tile), end = r + piece.group;
    if (n == kTile) {
      for (; r < end; ++r) {
        at.next_max[r] = MaxOfRow<V>(at.scores + r * kTile, kTile, at.max[r]);
      }
    } else {
      for (; r < end; ++r) at.next_max[r] = MaxOfRow<V>(at.scores + r * kTile, n, at.max[r]);
    }
  }
  for (int32_t r = begin; r < at.rows; r += V::kWidth) {
    const typename V::Reg next = V::Load(at.next_max + r);
    V::Store(at.rescale + r, V::Exp2(V::Sub(V::Load(at.max + r), next)));
    V::Store(at.max + r, next);
  }
  for (int32_t t = first, r = first_row; t < piece.num_tokens; ++t) {
    const int32_t n = Seen(piece, t, tile), end = r + piece.group;
    for (; r < end; ++r) {
      float* scores = at.scores + r * kTile;
      float* sum = at.sum + r * V::kWidth;
      if (n == kTile) {
        WeightsOfRow<P>(scores, kTile, at.max[r], at.rescale[r], v_scale, sum);
      } else {
        WeightsOfRow<P>(scores, n, at.max[r], at.rescale[r], v_scale, sum);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cpu

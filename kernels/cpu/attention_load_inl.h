// The tile of attention.h: k, v and scales of up to kTile positions out of the blocks of the cache.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_space_inl.h"

namespace nibble::cpu {
namespace {

// The first n <= kWidth codes at p, then zeros; nothing behind them is read.
template <class V, class Codec>
typename V::Reg LoadFirst(const typename Codec::Code* p, int32_t n) {
  if (n >= V::kWidth) return Codec::Load(p);
  typename Codec::Code whole[V::kWidth] = {};
  for (int32_t i = 0; i < n; ++i) whole[i] = p[i];
  return Codec::Load(whole);
}

// The first `columns` of kSpan rows of codes, joined; of rows past num_rows zeros.
template <class P, class Codec>
[[gnu::always_inline]] inline typename P::Reg LoadJoined(const typename Codec::Code* p,
                                                         int32_t stride, int32_t num_rows,
                                                         int32_t columns) {
  using V = typename P::V;
  if (columns >= V::kWidth && num_rows >= P::kSpan) return P::template Load<Codec>(p, stride);
  const typename V::Reg first = LoadFirst<V, Codec>(p, columns);
  return P::Join(first, num_rows > 1 ? LoadFirst<V, Codec>(p + stride, columns) : V::Zero());
}

// k_tile [head_dim / kSpan, kTile] = k of positions tile .. tile + n - 1, dimensions joined.
// Columns past n are not defined.
template <class P, class Codec>
void LoadKeyTile(const AttentionPiece& piece, int32_t tile, int32_t n, float* k_tile) {
  using V = typename P::V;
  const int32_t stride = piece.block_size;
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const typename Codec::Code* from = KeyCodes<Codec>(piece, run);
    float* to = k_tile + j;
    for (int32_t d = 0; d < piece.head_dim; d += P::kSpan, from += P::kSpan * stride, to += kTile) {
      const int32_t num_rows = piece.head_dim - d;
      int32_t i = 0;
      for (; i + V::kWidth <= run.length; i += V::kWidth) {
        V::Store(to + i, LoadJoined<P, Codec>(from + i, stride, num_rows, V::kWidth));
      }
      if (i == run.length) continue;
      const int32_t left = run.length - i;
      V::StorePartial(to + i, LoadJoined<P, Codec>(from + i, stride, num_rows, left), left);
    }
    j += run.length;
  }
}

// v_tile [n / kSpan, padded head_dim], positions joined, zeros in the padding and past n.
template <class P, class Codec>
void LoadValueTile(const AttentionPiece& piece, int32_t tile, int32_t n, float* v_tile) {
  using V = typename P::V;
  const int32_t head_dim = piece.head_dim, padded = RoundUp<V>(head_dim);
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, n - j);
    const typename Codec::Code* from = ValueCodes<Codec>(piece, run);
    const int32_t end = j + run.length;
    for (; j < end; j += P::kSpan, from += P::kSpan * head_dim) {
      float* to = v_tile + j / P::kSpan * padded;
      for (int32_t d = 0; d < padded; d += V::kWidth) {
        V::Store(to + d, LoadJoined<P, Codec>(from + d, head_dim, end - j, head_dim - d));
      }
    }
  }
}

template <class P, class Codec>
void LoadScales(const AttentionPiece& piece, int32_t tile, int32_t n, const AttentionSpace<P>& at) {
  const int64_t codes = int64_t{piece.head_dim} * piece.block_size * sizeof(typename Codec::Code);
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, n - j);
    const int64_t begin = run.block + codes + run.offset * int64_t{sizeof(float)};
    __builtin_memcpy(at.k_scale + j, piece.k + begin, run.length * sizeof(float));
    __builtin_memcpy(at.v_scale + j, piece.v + begin, run.length * sizeof(float));
    j += run.length;
  }
}

// Asks for the k and v of a tile, so that they arrive while the one before it is computed.
template <class Codec>
void PrefetchTile(const AttentionPiece& piece, int32_t tile) {
  constexpr int32_t kLine = kLineBytes / sizeof(typename Codec::Code);
  const int32_t left = piece.end_position - tile, n = left < kTile ? left : kTile;
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const typename Codec::Code* k = KeyCodes<Codec>(piece, run);
    for (int32_t d = 0; d < piece.head_dim; ++d) __builtin_prefetch(k + d * piece.block_size);
    const typename Codec::Code* v = ValueCodes<Codec>(piece, run);
    for (int32_t i = 0; i < run.length * piece.head_dim; i += kLine) __builtin_prefetch(v + i);
    j += run.length;
  }
}

}  // namespace
}  // namespace nibble::cpu

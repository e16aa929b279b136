// The two matrix products of attention.h: scores = q k, and out = weights v.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_space_inl.h"
#include "kernels/cpu/kv_codec_inl.h"

namespace nibble::cpu {
namespace {

// --- scores -------------------------------------------------------------------------------------

// scores [R, C vectors] = q [R, head_dim] * k, each sum in the order of d; the codes of dimension d
// are at k + d * k_stride. `ahead` is laid out as k and only prefetched.
template <class V, class Codec, int R, int C>
void ScoreColumns(const float* q, int32_t q_stride, const typename Codec::Code* k, int32_t k_stride,
                  int32_t head_dim, const typename Codec::Code* ahead, const float* scale,
                  float* scores) {
  typename V::Reg sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = V::Zero();
  }
  constexpr int kLine = kLineBytes / sizeof(typename Codec::Code);
  for (int32_t d = 0; d < head_dim; ++d) {
    typename V::Reg x[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) x[c] = Codec::Load(k + d * k_stride + c * V::kWidth);
    if constexpr (Codec::kInCache) {
      for (int i = 0; i < C * V::kWidth; i += kLine) __builtin_prefetch(ahead + d * k_stride + i);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename V::Reg weight = V::Set1(q[r * q_stride + d]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = V::Fma(weight, x[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      if (scale != nullptr) sum[r][c] = V::Mul(sum[r][c], V::Load(scale + c * V::kWidth));
      V::Store(scores + r * kTile + c * V::kWidth, sum[r][c]);
    }
  }
}

// As above for n columns, whole vectors.
template <class V, class Codec, int R>
void ScoreRows(const float* q, int32_t q_stride, const typename Codec::Code* k, int32_t k_stride,
               int32_t head_dim, const typename Codec::Code* ahead, const float* scale, int32_t n,
               float* scores) {
  int32_t j = 0;
  const auto columns = [&](auto count) {
    constexpr int C = count.kValue;
    for (; j + C * V::kWidth <= n; j += C * V::kWidth) {
      ScoreColumns<V, Codec, R, C>(q, q_stride, k + j, k_stride, head_dim,
                                   Codec::kInCache ? ahead + j : nullptr,
                                   scale != nullptr ? scale + j : nullptr, scores + j);
    }
  };
  if constexpr (V::kColBlock >= 4) columns(Count<4>{});
  if constexpr (V::kColBlock >= 2) columns(Count<2>{});
  columns(Count<1>{});
}

template <class V, class Codec>
void ScoreDirect(const AttentionPiece& piece, int32_t tile, int32_t n,
                 const AttentionSpace<V>& at) {
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const int32_t length = run.length < n - j ? run.length : RoundUp<V>(n - j);
    const RunAhead ahead(piece, tile, j, run);
    ForRowBlocks<4, 3, 2, 1>(0, at.rows, [&](auto count, int32_t r) {
      ScoreRows<V, Codec, count.kValue>(
          at.q + r * at.padded, at.padded, KeyCodes<Codec>(piece, run), piece.block_size,
          piece.head_dim, KeyCodes<Codec>(*ahead.piece, ahead.run),
          Codec::kScaled ? at.k_scale + j : nullptr, length, at.scores + r * kTile + j);
    });
    j += run.length;
  }
}

// --- the weighted sum of v ----------------------------------------------------------------------

// out [R, C vectors] = out * rescale + p [R, n] * v, in the order of the positions; rescale
// null: 1. `ahead` is laid out as v and only prefetched.
template <class V, class Codec, int R, int C>
void WeighColumns(const float* p, int32_t n, const typename Codec::Code* v, int32_t v_stride,
                  const typename Codec::Code* ahead, const float* rescale, float* out,
                  int32_t out_stride) {
  typename V::Reg sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      sum[r][c] = V::Load(out + r * out_stride + c * V::kWidth);
      if (rescale != nullptr) sum[r][c] = V::Mul(sum[r][c], V::Set1(rescale[r]));
    }
  }
  constexpr int kLine = kLineBytes / sizeof(typename Codec::Code);
  for (int32_t j = 0; j < n; ++j) {
    typename V::Reg x[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) x[c] = Codec::Load(v + j * v_stride + c * V::kWidth);
    if constexpr (Codec::kInCache) {
      for (int i = 0; i < C * V::kWidth; i += kLine) __builtin_prefetch(ahead + j * v_stride + i);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename V::Reg weight = V::Set1(p[r * kTile + j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = V::Fma(weight, x[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) V::Store(out + r * out_stride + c * V::kWidth, sum[r][c]);
  }
}

template <class V, class Codec, int R>
void WeighRows(const float* p, int32_t n, const typename Codec::Code* v, int32_t v_stride,
               const typename Codec::Code* ahead, const float* rescale, float* out,
               int32_t padded) {
  constexpr int32_t kStep = V::kColBlock * V::kWidth;
  const auto at = [](const typename Codec::Code* from, int32_t d) {
    return Codec::kInCache ? from + d : nullptr;
  };
  int32_t d = 0;
  for (; d + kStep <= padded; d += kStep) {
    WeighColumns<V, Codec, R, V::kColBlock>(p, n, v + d, v_stride, at(ahead, d), rescale, out + d,
                                            padded);
  }
  for (; d < padded; d += V::kWidth) {
    WeighColumns<V, Codec, R, 1>(p, n, v + d, v_stride, at(ahead, d), rescale, out + d, padded);
  }
}

// Rows first .. end - 1, all of which see n positions of the tile.
template <class V, class Codec>
void WeighDirect(const AttentionPiece& piece, int32_t tile, int32_t n, int32_t first, int32_t end,
                 const AttentionSpace<V>& at) {
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, n - j);
    const RunAhead ahead(piece, tile, j, run);
    ForRowBlocks<4, 3, 2, 1>(first, end, [&](auto count, int32_t r) {
      WeighRows<V, Codec, count.kValue>(
          at.scores + r * kTile + j, run.length, ValueCodes<Codec>(piece, run), piece.head_dim,
          ValueCodes<Codec>(*ahead.piece, ahead.run), j == 0 ? at.rescale + r : nullptr,
          at.out + r * at.padded, at.padded);
    });
    j += run.length;
  }
}

}  // namespace
}  // namespace nibble::cpu

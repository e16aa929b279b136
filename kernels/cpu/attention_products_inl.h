// The two matrix products of attention.h, scores = q k and out = weights v, once for every policy P
// of products (attention_f32_inl.h) and every source of rows.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_space_inl.h"

namespace nibble::cpu {
namespace {

// Rows read from the cache's own lines, and joined in registers.
template <class P, class Codec>
struct CacheRows {
  using Code = typename Codec::Code;
  static constexpr bool kInCache = true;
  static constexpr int kRowsPerStep = P::kSpan;
  static typename P::Reg Load(const Code* p, int32_t stride) {
    return P::template Load<Codec>(p, stride);
  }
  static typename P::Reg LoadFirstRow(const Code* p) {
    return P::Join(Codec::Load(p), P::V::Zero());
  }
};

// Rows of a tile, joined already.
template <class P>
struct TileRows {
  using Code = float;
  static constexpr bool kInCache = false;
  static constexpr int kRowsPerStep = 1;
  static typename P::Reg Load(const Code* p, int32_t) { return P::V::Load(p); }
  static typename P::Reg LoadFirstRow(const Code* p) { return P::KeepFirstRow(P::V::Load(p)); }
};

// Asks for the lines of the C vectors of a step's rows. Into the L1 cache where it has room for k
// and v of two tiles; else into the L2 cache, which also waits for more lines at a time: with codes
// of two bytes that halves what 32 rows at a context of 160 take.
template <class P, class Source, int C>
[[gnu::always_inline]] inline void PrefetchStep(const typename Source::Code* ahead,
                                                int32_t stride) {
  if constexpr (Source::kInCache) {
    constexpr int kCodeBytes = sizeof(typename Source::Code), kLine = kLineBytes / kCodeBytes;
    constexpr int kLocality = kCodeBytes == 1 ? 3 : 2;
#pragma GCC unroll 2
    for (int row = 0; row < Source::kRowsPerStep; ++row) {
      for (int i = 0; i < C * P::V::kWidth; i += kLine) {
        __builtin_prefetch(ahead + row * stride + i, 0, kLocality);
      }
    }
  }
}

// --- scores -------------------------------------------------------------------------------------

// scores [R, C vectors] = q [R, steps] * k, each sum in the order of the steps; the codes of step s
// begin at k + s * kRowsPerStep * k_stride. `ahead` is laid out as k and only prefetched.
template <class P, class Source, int R, int C>
void ScoreColumns(const float* q, int32_t q_stride, const typename Source::Code* k,
                  int32_t k_stride, int32_t steps, const typename Source::Code* ahead,
                  const float* scale, float* scores) {
  using V = typename P::V;
  typename V::Reg sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = V::Zero();
  }
  for (int32_t s = 0; s < steps; ++s) {
    const int32_t row = s * Source::kRowsPerStep;
    typename V::Reg x[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) x[c] = Source::Load(k + row * k_stride + c * V::kWidth, k_stride);
    PrefetchStep<P, Source, C>(ahead + row * k_stride, k_stride);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename V::Reg operands = V::Set1(q[r * q_stride + s]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = P::MultiplyAdd(operands, x[c], sum[r][c]);
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
template <class P, class Source, int R>
void ScoreRows(const float* q, int32_t q_stride, const typename Source::Code* k, int32_t k_stride,
               int32_t steps, const typename Source::Code* ahead, const float* scale, int32_t n,
               float* scores) {
  using V = typename P::V;
  int32_t j = 0;
  const auto columns = [&](auto count) {
    constexpr int C = count.kValue;
    for (; j + C * V::kWidth <= n; j += C * V::kWidth) {
      ScoreColumns<P, Source, R, C>(q, q_stride, k + j, k_stride, steps,
                                    Source::kInCache ? ahead + j : nullptr,
                                    scale != nullptr ? scale + j : nullptr, scores + j);
    }
  };
  if constexpr (V::kColBlock >= 4) columns(Count<4>{});
  if constexpr (V::kColBlock >= 2) columns(Count<2>{});
  columns(Count<1>{});
}

// --- the weighted sum of v ----------------------------------------------------------------------

// out [R, C vectors] = out * rescale + p [R, n] * v, in the order of the positions; rescale
// null: 1. Where n ends inside a step, the rows behind it are not touched. `ahead` is laid out as v
// and only prefetched.
template <class P, class Source, int R, int C>
void WeighColumns(const float* p, int32_t n, const typename Source::Code* v, int32_t v_stride,
                  const typename Source::Code* ahead, const float* rescale, float* out,
                  int32_t out_stride) {
  using V = typename P::V;
  typename V::Reg sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      sum[r][c] = V::Load(out + r * out_stride + c * V::kWidth);
      if (rescale != nullptr) sum[r][c] = V::Mul(sum[r][c], V::Set1(rescale[r]));
    }
  }
  const auto step = [&](int32_t s, const auto& load) __attribute__((always_inline)) {
    const int32_t row = s * Source::kRowsPerStep;
    typename V::Reg x[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) x[c] = load(v + row * v_stride + c * V::kWidth);
    PrefetchStep<P, Source, C>(ahead + row * v_stride, v_stride);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename V::Reg operands = V::Set1(p[r * kTile + s]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] = P::MultiplyAdd(operands, x[c], sum[r][c]);
    }
  };
  const int32_t whole = n / P::kSpan;
  for (int32_t s = 0; s < whole; ++s) {
    step(s, [&](const typename Source::Code* at) { return Source::Load(at, v_stride); });
  }
  if constexpr (P::kSpan > 1) {
    if (n % P::kSpan != 0) {
      step(whole, [](const typename Source::Code* at) { return Source::LoadFirstRow(at); });
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) V::Store(out + r * out_stride + c * V::kWidth, sum[r][c]);
  }
}

template <class P, class Source, int R>
void WeighRows(const float* p, int32_t n, const typename Source::Code* v, int32_t v_stride,
               const typename Source::Code* ahead, const float* rescale, float* out,
               int32_t padded) {
  using V = typename P::V;
  constexpr int32_t kStep = V::kColBlock * V::kWidth;
  const auto at = [](const typename Source::Code* from, int32_t d) {
    return Source::kInCache ? from + d : nullptr;
  };
  int32_t d = 0;
  for (; d + kStep <= padded; d += kStep) {
    WeighColumns<P, Source, R, V::kColBlock>(p, n, v + d, v_stride, at(ahead, d), rescale, out + d,
                                             padded);
  }
  for (; d < padded; d += V::kWidth) {
    WeighColumns<P, Source, R, 1>(p, n, v + d, v_stride, at(ahead, d), rescale, out + d, padded);
  }
}

}  // namespace
}  // namespace nibble::cpu

// The arithmetic of attention.h, written once for every vector width and cache type. Included by
// one translation unit per ISA.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/kv_codec_inl.h"

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

// --- the tile, widened --------------------------------------------------------------------------

// The first n <= kWidth codes at p, then zeros; nothing behind them is read.
template <class V, class Codec>
typename V::Reg LoadFirst(const typename Codec::Code* p, int32_t n) {
  if (n >= V::kWidth) return Codec::Load(p);
  typename Codec::Code whole[V::kWidth] = {};
  for (int32_t i = 0; i < n; ++i) whole[i] = p[i];
  return Codec::Load(whole);
}

// k_tile [head_dim, kTile] = k of positions tile .. tile + n - 1, widened. Columns past n are not
// defined.
template <class V, class Codec>
void LoadKeyTile(const AttentionPiece& piece, int32_t tile, int32_t n, float* k_tile) {
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, kTile - j);
    const typename Codec::Code* from = KeyCodes<Codec>(piece, run);
    float* to = k_tile + j;
    for (int32_t d = 0; d < piece.head_dim; ++d, from += piece.block_size, to += kTile) {
      int32_t i = 0;
      for (; i + V::kWidth <= run.length; i += V::kWidth) V::Store(to + i, Codec::Load(from + i));
      if (i == run.length) continue;
      V::StorePartial(to + i, LoadFirst<V, Codec>(from + i, run.length - i), run.length - i);
    }
    j += run.length;
  }
}

// v_tile [n, padded head_dim], zeros in the padding.
template <class V, class Codec>
void LoadValueTile(const AttentionPiece& piece, int32_t tile, int32_t n, float* v_tile) {
  const int32_t head_dim = piece.head_dim, padded = RoundUp<V>(head_dim);
  for (int32_t j = 0; j < n;) {
    const BlockRun run = RunAt(piece, tile + j, n - j);
    const typename Codec::Code* from = ValueCodes<Codec>(piece, run);
    const int32_t end = j + run.length;
    for (; j < end; ++j, from += head_dim) {
      float* to = v_tile + j * padded;
      int32_t d = 0;
      for (; d + V::kWidth <= head_dim; d += V::kWidth) V::Store(to + d, Codec::Load(from + d));
      if (d < head_dim) V::Store(to + d, LoadFirst<V, Codec>(from + d, head_dim - d));
    }
  }
}

template <class V, class Codec>
void LoadScales(const AttentionPiece& piece, int32_t tile, int32_t n, const AttentionSpace<V>& at) {
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

// --- softmax ------------------------------------------------------------------------------------

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
template <class V>
[[gnu::always_inline]] inline void WeightsOfRow(float* scores, int32_t n, float max, float rescale,
                                                const float* v_scale, float* sum) {
  using Reg = typename V::Reg;
  const Reg shift = V::Set1(max);
  Reg total = V::Mul(V::Load(sum), V::Set1(rescale));
  for (int32_t j = 0; j < n; j += V::kWidth) {
    const Reg p = V::KeepFirst(V::Exp2(V::Sub(V::Load(scores + j), shift)), n - j, V::Zero());
    total = V::Add(total, p);
    V::Store(scores + j, v_scale != nullptr ? V::Mul(p, V::Load(v_scale + j)) : p);
  }
  V::Store(sum, total);
}

// Scores of the rows of tokens first .. become weights; max, rescale and sum are updated.
template <class V>
void SoftmaxTile(const AttentionPiece& piece, int32_t tile, int32_t first, const float* v_scale,
                 const AttentionSpace<V>& at) {
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
        WeightsOfRow<V>(scores, kTile, at.max[r], at.rescale[r], v_scale, sum);
      } else {
        WeightsOfRow<V>(scores, n, at.max[r], at.rescale[r], v_scale, sum);
      }
    }
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

// --- a tile, a split ----------------------------------------------------------------------------

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

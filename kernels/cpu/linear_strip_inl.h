// What strips are made of (linear_tiles_inl.h says what one is), written once over the vector
// policy V: the activations of one, integer dot products of a chunk of 32 columns, storing its
// sums.
#pragma once

#include "kernels/cpu/linear_scales_inl.h"

namespace nibble::cpu {
namespace {

// Far enough for DRAM latency at the speed one core streams, near enough to stay in the L1 cache;
// and, because a core waits for few lines of its L1 cache at a time, before that into the L2 cache.
// Asked for at every tile: a line that is there already costs next to nothing.
constexpr int kPrefetchBytes = 8192;
constexpr int kFarPrefetchBytes = 16384;

// For the features from row0 on: those of a block's first register ask for all of them.
template <class V>
[[gnu::always_inline]] inline void PrefetchCodes(const uint8_t* codes, int bytes, int row0) {
  if (V::kLanes < kBlockRows && row0 > 0) return;
  for (int i = 0; i < bytes; i += 64) {
    __builtin_prefetch(codes + kPrefetchBytes + i, 0, 3);
    __builtin_prefetch(codes + kFarPrefetchBytes + i, 0, 2);
  }
}

// The activations of a strip: tokens first .. first + T - 1 of the tile's current group.
template <class V, int T, bool kHalves>
struct StripTokens {
  const uint8_t* group;
  TileLayout layout;  // of the tile
  int32_t first;

  // A strip that spans its tile has a layout the compiler knows.
  static constexpr bool kWhole = V::kStripTokens == kTileTokens;
  static constexpr TileLayout kLayout{.tokens = T, .halves = kHalves};

  [[gnu::always_inline]] TileLayout At() const { return kWhole ? kLayout : layout; }
  [[gnu::always_inline]] int32_t Token(int t) const { return kWhole ? t : first + t; }

  [[gnu::always_inline]] const uint8_t* Codes(int t) const { return group + Token(t) * kGroup; }
  [[gnu::always_inline]] const uint8_t* Scale(int t) const {
    return group + At().scale_at() + 4 * Token(t);
  }
  [[gnu::always_inline]] const uint8_t* MinusSum(int t) const {
    return group + At().minus_sum_at() + 4 * Token(t);
  }
  [[gnu::always_inline]] const uint8_t* Sum(int t) const {
    return group + At().sum_at() + 4 * Token(t);
  }
  [[gnu::always_inline]] const uint8_t* HalfMinusSum(int half, int t) const {
    return group + At().half_minus_sum_at(half) + 4 * Token(t);
  }
  [[gnu::always_inline]] const uint8_t* HalfSum(int half, int t) const {
    return group + At().half_sum_at(half) + 4 * Token(t);
  }
  [[gnu::always_inline]] void NextGroup() { group += At().group_bytes(); }
};

// Which columns of a chunk: all 32, or a half.
inline constexpr int kWholeChunk = -1;

// dots[t] += chunk . activations; `codes_of(t)` are the activations of the chunk's first column.
// Few tokens need several chains to hide the latency of one: integer sums do not care.
template <class V, int kHalf, int T,
          int kChains = T == 1   ? 4
                        : T <= 3 ? 2
                                 : 1,
          class Chunk, class CodesOf>
[[gnu::always_inline]] inline void AddDots(const Chunk& chunk, const uint8_t* codes,
                                           CodesOf&& codes_of, typename V::Ints (&dots)[T]) {
  using Dot = typename V::template Dot<Chunk::kLimit>;
  typename Dot::Sum sums[T][kChains];
  for (int t = 0; t < T; ++t) {
    for (int c = 0; c < kChains; ++c) sums[t][c] = c == 0 ? Dot::Begin(dots[t]) : Dot::Zero();
  }
  const auto add = [&](typename V::Ints w, int column) __attribute__((always_inline)) {
    for (int t = 0; t < T; ++t) {
      auto& sum = sums[t][column / 4 % kChains];
      sum = Dot::Add(sum, w, codes_of(t) + column);
    }
  };
  if constexpr (kHalf == kWholeChunk) {
    chunk.ForEach(codes, add);
  } else {
    chunk.template ForHalf<kHalf>(codes, add);
  }
  for (int t = 0; t < T; ++t) {
    typename V::Ints dot = Dot::End(sums[t][0], dots[t]);
    for (int c = 1; c < kChains; ++c) dot = V::AddInts(dot, Dot::End(sums[t][c], V::ZeroInts()));
    dots[t] = dot;
  }
}

// The lines that StoreStrip will write: another core had them, or memory.
template <int T>
[[gnu::always_inline]] inline void PrefetchStores(int first, int row0, const OutputTile& out) {
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    __builtin_prefetch(out.y + (first + t) * out.stride + row0, 1, 3);
  }
}

template <class V, int T>
[[gnu::always_inline]] inline void StoreStrip(typename V::Floats (&sums)[T], int first, int row0,
                                              const OutputTile& out) {
  float* const y = out.y + first * out.stride + row0;
  // Nearly always: no branch a token, which are as many as a strip of few columns has groups.
  if (out.num_rows - row0 >= V::kLanes && out.bias == nullptr) {
    if (out.accumulate) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[t] = V::Add(V::LoadFloats(y + t * out.stride), sums[t]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) V::StoreFloats(y + t * out.stride, sums[t]);
    return;
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    V::StoreRow(sums[t], y + t * out.stride, out.bias == nullptr ? nullptr : out.bias + row0,
                out.num_rows - row0, out.accumulate);
  }
}

}  // namespace
}  // namespace nibble::cpu

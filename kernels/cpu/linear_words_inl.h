// Strips of weights whose scales are words (linear_kernels.h), written once over the policy V
// (linear_tiles_inl.h): two groups of 32 columns at a time. All of a pair is integers, exactly what
// linear_scalar.cc computes; pairs follow each other in one f32 accumulator an output.
#pragma once

#include "kernels/cpu/linear_strip_inl.h"

namespace nibble::cpu {
namespace {

// The words of a pair: two a lane. Offset words are there where the zero point is 0.
template <class V>
struct WordPair {
  typename V::Ints scales, offsets;
};

// Words of groups of 32, joined as they stand.
template <class V, bool kOffsetWords>
struct PairWords {
  static constexpr bool kHasOffsets = kOffsetWords;
  const uint8_t* at;

  PairWords(const WeightBlock& weight, int row0) : at(weight.scales + 4 * row0) {}
  [[gnu::always_inline]] typename V::Ints NextArray() {
    const uint8_t* const p = at;
    __builtin_prefetch(p + kPrefetchScaleBytes, 0, 3);
    at += 4 * kBlockRows;
    return V::LoadBytes(p);
  }
  [[gnu::always_inline]] WordPair<V> Next(bool) {
    const typename V::Ints scales = NextArray();
    return {scales, kOffsetWords ? NextArray() : V::ZeroInts()};
  }
};

// Words of larger groups: one serves several groups of 32.
template <class V, bool kOffsetWords>
struct GroupWords {
  static constexpr bool kHasOffsets = kOffsetWords;
  const uint8_t* at;
  const int32_t groups_of_word;
  int32_t left = 0;  // groups of 32 that `group` is still of
  WordPair<V> group = {V::ZeroInts(), V::ZeroInts()};

  GroupWords(const WeightBlock& weight, int row0)
      : at(weight.scales + 2 * row0), groups_of_word(weight.group / kGroup) {}
  [[gnu::always_inline]] typename V::Ints NextArray() {
    const uint8_t* const p = at;
    __builtin_prefetch(p + kPrefetchScaleBytes, 0, 3);
    at += 2 * kBlockRows;
    return V::WidenU16(p);
  }
  [[gnu::always_inline]] WordPair<V> NextGroup() {
    if (left == 0) {
      group.scales = NextArray();
      if (kOffsetWords) group.offsets = NextArray();
      left = groups_of_word;
    }
    --left;
    return group;
  }
  [[gnu::always_inline]] WordPair<V> Next(bool alone) {
    const WordPair<V> first = NextGroup();
    const WordPair<V> second = alone ? WordPair<V>{V::ZeroInts(), V::ZeroInts()} : NextGroup();
    return {V::JoinWords(first.scales, second.scales), V::JoinWords(first.offsets, second.offsets)};
  }
};

template <class V, int T, class Words>
void WordStrip(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout, int first,
               int row0, const OutputTile& out) {
  using Chunk = Int4Chunk<V>;
  const uint8_t* codes = weight.codes + 4 * row0;
  const Chunk chunk(weight);
  Words words(weight, row0);
  StripTokens<V, T, false> x{tile, layout, first};
  const uint8_t* pair = tile + layout.pairs_at();
  // A tile with halves has longer groups; everything before them lies the same.
  const int32_t group_bytes = layout.group_bytes();
  PrefetchStores<T>(first, row0, out);
  typename V::Floats sums[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = V::ZeroFloats();
  const auto at = [&](int32_t field, int t)
                      __attribute__((always_inline)) { return pair + field + 4 * x.Token(t); };
  const auto add_group = [&](int group, typename V::Ints(&dots)[T]) __attribute__((always_inline)) {
    const int32_t minus_sum = x.At().pair_minus_sum_at(group);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) dots[t] = V::BroadcastInt(at(minus_sum, t));
    PrefetchCodes<V>(codes, Chunk::kBytes, row0);
    // Other pairs hide the latency of a chain.
    AddDots<V, kWholeChunk, T, T == 1 ? 2 : 1>(
        chunk, codes, [&](int t) { return x.Codes(t); }, dots);
    codes += Chunk::kBytes;
    x.group += group_bytes;
  };
  const int32_t groups = weight.cols / kGroup;
  for (int32_t g = 0; g < groups; g += 2) {
    const bool alone = g + 1 == groups;
    typename V::Ints low[T], high[T];
    add_group(0, low);
    if (!alone) {
      add_group(1, high);
    } else {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) high[t] = V::ZeroInts();
    }
    const WordPair<V> next = words.Next(alone);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const auto both =
          V::MulHighWords(next.scales, V::BroadcastInt(at(x.At().pair_scales_at(), t)));
      typename V::Ints sum = V::MulWordPairs(V::JoinWords(low[t], high[t]), both);
      if constexpr (Words::kHasOffsets) {
        sum = V::AddWordPairs(sum, next.offsets, at(x.At().pair_sums_at(), t));
      }
      const auto factor = V::BroadcastFloat(at(x.At().pair_factor_at(), t));
      sums[t] = V::Fma(V::ToFloats(sum), factor, sums[t]);
    }
    pair += x.At().pair_bytes();
  }
  const typename V::Floats unit =
      V::Mul(V::LoadFloats(weight.units + row0), V::SetFloat(kUnitScale));
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = V::Mul(sums[t], unit);
  StoreStrip<V, T>(sums, first, row0, out);
}

template <class V, int T, bool kOffsetWords>
auto WordStripOf(const WeightBlock& weight) {
  return weight.group == kGroup ? WordStrip<V, T, PairWords<V, kOffsetWords>>
                                : WordStrip<V, T, GroupWords<V, kOffsetWords>>;
}

template <class V, int T>
auto WordStripFor(const WeightBlock& weight) {
  return weight.has_offset_words() ? WordStripOf<V, T, true>(weight)
                                   : WordStripOf<V, T, false>(weight);
}

}  // namespace
}  // namespace nibble::cpu

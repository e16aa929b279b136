// Strips of weights that have words (linear_kernels.h), written once over the vector policy V
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

// Makes words of scales, a pair at a time, from column 0 of kLanes features on. kKeep: and leaves
// them at weight.words.
template <class V, bool kOffsets, bool kOffsetWords, bool kKeep>
struct MadeWords {
  static constexpr bool kHasOffsets = kOffsetWords;
  // Added to a float of less than 2^22, this leaves its nearest integer in the lower bits.
  static constexpr float kRounding = 0x1.8p23f;
  PlainScales<V, kOffsets, true> scales;
  typename V::Floats inverse, half_inverse, sixteenth;  // of the units
  ScalePair<V> group = ZeroPair<V>();
  const int32_t groups_of_scale;
  int32_t left = 0;  // groups of 32 that `group` is still of
  uint8_t* to;

  MadeWords(const WeightBlock& weight, int row0)
      : scales(weight, row0),
        groups_of_scale(weight.group / kGroup),
        to(kKeep ? weight.words + 4 * row0 : nullptr) {
    // 1 / a power of two, by its exponent.
    const auto unit = V::AsInts(V::LoadFloats(weight.units + row0));
    inverse = V::AsFloats(V::SubInts(V::SetInt(0x7F000000), unit));
    half_inverse = V::Mul(inverse, V::SetFloat(0.5f));
    sixteenth = V::Mul(inverse, V::SetFloat(1 / kOffsetWordUnits));
  }
  // Factors are powers of two: nothing is rounded but to a word. Offsets are centred by half a
  // scale, of the kWordCenter / kOffsetWordUnits.
  [[gnu::always_inline]] WordPair<V> NextGroup() {
    static_assert(kWordCenter / kOffsetWordUnits == 0.5f);
    if (left == 0) {
      group = scales.Next();
      left = groups_of_scale;
    }
    --left;
    const auto rounding = V::SetFloat(kRounding);
    const auto scale = V::AsInts(V::Fma(group.scale, inverse, rounding));
    if constexpr (!kOffsetWords) return {scale, scale};
    auto offset = V::Mul(group.scale, half_inverse);
    if constexpr (kOffsets) offset = V::Fma(group.offset, sixteenth, offset);
    return {scale, V::AsInts(V::Add(offset, rounding))};
  }
  // `alone`: the second group is zeros.
  [[gnu::always_inline]] WordPair<V> Next(bool alone) {
    const WordPair<V> first = NextGroup();
    const WordPair<V> second = alone ? WordPair<V>{V::ZeroInts(), V::ZeroInts()} : NextGroup();
    const WordPair<V> pair{V::JoinWords(first.scales, second.scales),
                           V::JoinWords(first.offsets, second.offsets)};
    if constexpr (kKeep) {
      V::StoreBytes(to, pair.scales);
      if (kOffsetWords) V::StoreBytes(to + kBlockRows * 4, pair.offsets);
      to += PairWordsBytes(kOffsetWords);
    }
    return pair;
  }
};

// Words kept by an earlier strip.
template <class V, bool kOffsetWords>
struct KeptWords {
  static constexpr bool kHasOffsets = kOffsetWords;
  const uint8_t* at;

  KeptWords(const WeightBlock& weight, int row0) : at(weight.words + 4 * row0) {}
  [[gnu::always_inline]] WordPair<V> Next(bool) {
    const uint8_t* const pair = at;
    at += PairWordsBytes(kOffsetWords);
    return {V::LoadBytes(pair), kOffsetWords ? V::LoadBytes(pair + kBlockRows * 4) : V::ZeroInts()};
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

template <class V, int T, bool kKeep>
auto MadeWordStripFor(const WeightBlock& weight) {
  if (weight.has_offsets) return WordStrip<V, T, MadeWords<V, true, true, kKeep>>;
  return weight.has_offset_words() ? WordStrip<V, T, MadeWords<V, false, true, kKeep>>
                                   : WordStrip<V, T, MadeWords<V, false, false, kKeep>>;
}

// Of tokens `first` ..: the first strip that a row block meets makes the words, and keeps them
// where more will come.
template <class V, int T>
auto WordStripFor(const WeightBlock& weight, int first) {
  if (weight.words == nullptr) return MadeWordStripFor<V, T, false>(weight);
  if (first == 0 && !weight.words_kept) return MadeWordStripFor<V, T, true>(weight);
  return weight.has_offset_words() ? WordStrip<V, T, KeptWords<V, true>>
                                   : WordStrip<V, T, KeptWords<V, false>>;
}

}  // namespace
}  // namespace nibble::cpu

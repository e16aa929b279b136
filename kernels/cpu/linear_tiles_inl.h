// The tile kernels of the linear op, written once for every instruction set. Included by one
// translation unit per ISA (linear_<isa>.cc), which names its vector policy:
//
//   MakeLinearKernels<V>()  the table for linear.cc
//
// A policy V (int_simd_*.h) is a register of kLanes output features. Its members are explained in
// int_simd_avx512.h; what they must compute, to the bit, is what linear_scalar.cc does, but for
// Fma's single rounding. Nothing here may be called from another translation unit: each is compiled
// with its own flags, so everything has internal linkage and no std or absl template is used.
//
// A strip is kLanes features of a row block times 1 to kStripTokens tokens of a tile: what the
// registers hold. For each group of 32 columns it sums integer products exactly, then adds
//   (weight scale * activation scale) * dot  and, with offsets,  offset * (activation scale * sum)
// to one f32 accumulator an output, groups ascending. Weights with words: linear_words_inl.h. The
// order is the same for every T and every V, so neither the batch nor the vector width changes a
// bit.
#pragma once

#include "kernels/cpu/linear_words_inl.h"

namespace nibble::cpu {
namespace {

// What an integer sum begins with: -zero point * sum of the activations. A policy that takes
// eight-bit codes as signed (kSignedBytes) has undone their zero point of 128 already.
template <class V, class Chunk, int kZeroShift>
[[gnu::always_inline]] inline typename V::Ints ZeroTerm(const uint8_t* minus_sum) {
  constexpr bool kUndone = kZeroShift == 7 && Chunk::kLimit == 255 && V::kSignedBytes;
  if constexpr (kZeroShift == 0 || kUndone) return V::ZeroInts();
  return V::template ShiftLeft<kZeroShift>(V::BroadcastInt(minus_sum));
}

// dots[t] = sum of (code - zero point) * activation over the chunk's columns, exactly. Of a chunk
// in two planes, 256 * the upper one's + the lower one's.
template <class V, int kHalf, int kZeroShift, int T, class Chunk, class CodesOf, class MinusSumOf>
[[gnu::always_inline]] inline void Dots(const Chunk& chunk, const uint8_t* codes,
                                        CodesOf&& codes_of, MinusSumOf&& minus_sum_of,
                                        typename V::Ints (&dots)[T]) {
  if constexpr (requires { chunk.low; }) {
    Dots<V, kHalf, kZeroShift, T>(chunk.high, codes, codes_of, minus_sum_of, dots);
    for (int t = 0; t < T; ++t) {
      const auto zero = ZeroTerm<V, LutPlane<V>, kZeroShift>(minus_sum_of(t));
      dots[t] = V::AddInts(V::template ShiftLeft<8>(dots[t]), zero);
    }
    AddDots<V, kHalf, T>(chunk.low, codes, codes_of, dots);
  } else {
    for (int t = 0; t < T; ++t) dots[t] = ZeroTerm<V, Chunk, kZeroShift>(minus_sum_of(t));
    AddDots<V, kHalf, T>(chunk, codes, codes_of, dots);
  }
}

// A table's common factor, once for all of a strip.
template <class V, int T>
[[gnu::always_inline]] inline void FinishStrip(typename V::Floats (&sums)[T],
                                               const WeightBlock& weight, int first, int row0,
                                               const OutputTile& out) {
  if (weight.lut != nullptr) {
    const typename V::Floats factor = V::SetFloat(weight.lut->factor);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[t] = V::Mul(sums[t], factor);
  }
  StoreStrip<V, T>(sums, first, row0, out);
}

// Groups that are a multiple of 32. kZeroShift: log2 of the zero point, 0 for none.
template <class V, class Chunk, class Scales, int T, int kZeroShift>
void GroupStrip(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout, int first,
                int row0, const OutputTile& out) {
  const int32_t chunks_per_scale = weight.group / kGroup;
  const uint8_t* codes = weight.codes + 4 * row0;
  const Chunk chunk(weight);
  Scales scales(weight, row0);
  StripTokens<V, T, false> x{tile, layout, first};
  PrefetchStores<T>(first, row0, out);
  typename V::Floats sums[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = V::ZeroFloats();
  // A tile with halves has longer groups; everything before them lies the same.
  const int32_t group_bytes = layout.group_bytes();
  for (int32_t k = 0; k < weight.cols; k += weight.group) {
    const ScalePair<V> group = scales.Next();
    for (int32_t c = 0; c < chunks_per_scale; ++c) {
      PrefetchCodes<V>(codes, Chunk::kBytes, row0);
      typename V::Ints dots[T];
      Dots<V, kWholeChunk, kZeroShift, T>(
          chunk, codes, [&](int t) { return x.Codes(t); }, [&](int t) { return x.MinusSum(t); },
          dots);
      for (int t = 0; t < T; ++t) {
        const typename V::Floats both = V::Mul(group.scale, V::BroadcastFloat(x.Scale(t)));
        sums[t] = V::Fma(both, V::ToFloats(dots[t]), sums[t]);
        if constexpr (Scales::kOffsets) {
          sums[t] = V::Fma(group.offset, V::BroadcastFloat(x.Sum(t)), sums[t]);
        }
      }
      codes += Chunk::kBytes;
      x.group += group_bytes;
    }
  }
  FinishStrip<V, T>(sums, weight, first, row0, out);
}

// A scale every 16 columns: as above, a half at a time.
template <class V, class Chunk, class Scales, int T, int kZeroShift>
void HalfGroupStrip(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout,
                    int first, int row0, const OutputTile& out) {
  const uint8_t* codes = weight.codes + 4 * row0;
  const Chunk chunk(weight);
  Scales scales(weight, row0);
  StripTokens<V, T, true> x{tile, layout, first};
  PrefetchStores<T>(first, row0, out);
  typename V::Floats sums[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = V::ZeroFloats();
  const auto add_half = [&]<int kHalf>() __attribute__((always_inline)) {
    const ScalePair<V> group = scales.Next();
    typename V::Ints dots[T];
    Dots<V, kHalf, kZeroShift, T>(
        chunk, codes, [&](int t) { return x.Codes(t); },
        [&](int t) { return x.HalfMinusSum(kHalf, t); }, dots);
    for (int t = 0; t < T; ++t) {
      const typename V::Floats both = V::Mul(group.scale, V::BroadcastFloat(x.Scale(t)));
      sums[t] = V::Fma(both, V::ToFloats(dots[t]), sums[t]);
      if constexpr (Scales::kOffsets) {
        sums[t] = V::Fma(group.offset, V::BroadcastFloat(x.HalfSum(kHalf, t)), sums[t]);
      }
    }
  };
  for (int32_t k = 0; k < weight.cols; k += kGroup, x.NextGroup(), codes += Chunk::kBytes) {
    PrefetchCodes<V>(codes, Chunk::kBytes, row0);
    add_half.template operator()<0>();
    add_half.template operator()<1>();
  }
  FinishStrip<V, T>(sums, weight, first, row0, out);
}

using StripFunction = void (*)(const WeightBlock&, const uint8_t*, const TileLayout&, int, int,
                               const OutputTile&);

// The strip of a format whose scales are plain arrays; kZeroShift is of the case without offsets.
template <class V, class Chunk, int T, int kZeroShift, int kOffsetsZeroShift, bool kAllF16 = false>
StripFunction PlainStripFor(const WeightBlock& weight) {
  return weight.has_offsets
             ? GroupStrip<V, Chunk, PlainScales<V, true, kAllF16>, T, kOffsetsZeroShift>
             : GroupStrip<V, Chunk, PlainScales<V, false, kAllF16>, T, kZeroShift>;
}

template <class V, int T>
StripFunction Int4StripFor(const WeightBlock& weight) {
  if (weight.scale_type == ScaleType::kWords) return WordStripFor<V, T>(weight);
  if (weight.scale_type == ScaleType::kQ4K) {
    return GroupStrip<V, Int4Chunk<V>, Q4KScales<V>, T, 0>;
  }
  const bool zero = weight.zero_point == 0;
  if (weight.scale_type == ScaleType::kF16) {  // that words are too coarse for, or cannot say
    return zero ? PlainStripFor<V, Int4Chunk<V>, T, 0, 0, true>(weight)
                : PlainStripFor<V, Int4Chunk<V>, T, 3, 0, true>(weight);
  }
  return zero ? PlainStripFor<V, Int4Chunk<V>, T, 0, 0>(weight)
              : PlainStripFor<V, Int4Chunk<V>, T, 3, 0>(weight);
}

template <class V, int T>
StripFunction Int8StripFor(const WeightBlock& weight) {
  if (weight.group >= kGroup) return PlainStripFor<V, Int8Chunk<V>, T, 7, 7>(weight);
  return weight.has_offsets ? HalfGroupStrip<V, Int8Chunk<V>, PlainScales<V, true>, T, 7>
                            : HalfGroupStrip<V, Int8Chunk<V>, PlainScales<V, false>, T, 7>;
}

// Tables have no offsets.
template <class V, class Chunk, int T>
StripFunction LutStripFor(const WeightBlock& weight) {
  return weight.group < kGroup ? HalfGroupStrip<V, Chunk, PlainScales<V, false>, T, 7>
                               : GroupStrip<V, Chunk, PlainScales<V, false>, T, 7>;
}

template <class V, int T>
StripFunction StripFor(const WeightBlock& weight) {
  switch (weight.storage) {
    case Storage::kInt4:
      return Int4StripFor<V, T>(weight);
    case Storage::kInt5:
      return weight.scale_type == ScaleType::kQ4K ? GroupStrip<V, Int5Chunk<V>, Q4KScales<V>, T, 0>
                                                  : PlainStripFor<V, Int5Chunk<V>, T, 4, 0>(weight);
    case Storage::kInt6:
      return HalfGroupStrip<V, Int6Chunk<V>, Q6KScales<V>, T, 5>;
    case Storage::kLut4:
      return weight.lut->two_planes ? LutStripFor<V, LutPairChunk<V>, T>(weight)
                                    : LutStripFor<V, LutChunk<V>, T>(weight);
    default:
      return Int8StripFor<V, T>(weight);
  }
}

// N tokens from `first` on, in strips of as many as the registers hold.
template <class V, int N = V::kStripTokens>
void StripsOf(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout, int first,
              const OutputTile& out) {
  if constexpr (N > 1) {
    if (layout.tokens - first < N) {
      return StripsOf<V, N - 1>(weight, tile, layout, first, out);
    }
  }
  const StripFunction strip = StripFor<V, N>(weight);
  for (int row0 = 0; row0 < out.num_rows; row0 += V::kLanes) {
    strip(weight, tile, layout, first, row0, out);
  }
}

template <class V>
void IntTile(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout,
             const OutputTile& out) {
  for (int first = 0; first < layout.tokens; first += V::kStripTokens) {
    StripsOf<V>(weight, tile, layout, first, out);
  }
}

}  // namespace
}  // namespace nibble::cpu

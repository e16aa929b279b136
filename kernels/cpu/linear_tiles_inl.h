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
// to one f32 accumulator an output, groups ascending. The order is the same for every T and every
// V, so neither the batch nor the vector width changes a bit.
#pragma once

#include "kernels/cpu/linear_kernels.h"

namespace nibble::cpu {
namespace {

// Far enough for DRAM latency at the speed one core streams, near enough to stay in the L1 cache.
// Asked for at every tile: a line that is there already costs next to nothing.
constexpr int kPrefetchBytes = 4096;
constexpr int kPrefetchScaleBytes = 1024;

[[gnu::always_inline]] inline void PrefetchCodes(const uint8_t* codes, int bytes) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(codes + kPrefetchBytes + i, 0, 3);
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

// Reads kLanes of the 16 scales of a group, and as many of its 16 offsets, one group after another.
template <class V>
struct ScaleReader {
  const uint8_t* at;
  bool is_f16;

  ScaleReader(const WeightBlock& weight, int64_t first, int row0)
      : at(weight.scales + (first + row0) * (weight.scales_are_f16 ? 2 : 4)),
        is_f16(weight.scales_are_f16) {}

  [[gnu::always_inline]] typename V::Floats Next() {
    const uint8_t* p = at;
    __builtin_prefetch(p + kPrefetchScaleBytes, 0, 3);
    at += kBlockRows * (is_f16 ? 2 : 4);
    return is_f16 ? V::LoadF16(p) : V::LoadFloats(p);
  }
};

// --- how 32 columns of a format become unsigned bytes: ForEach(codes, f) calls f(w, column) with w
// holding columns column .. column + 3 of kLanes features. kLimit bounds the codes, so that a
// policy without a 32-bit dot product knows how many it may add in 16 bits.

template <class V>
struct Int4Chunk {
  static constexpr int kBytes = 256;
  static constexpr int kLimit = 15;
  template <class F>
  [[gnu::always_inline]] static void ForEach(const uint8_t* codes, F&& f) {
    for (int j = 0; j < 4; ++j) {
      const typename V::Ints both = V::LoadBytes(codes + 64 * j);
      f(V::LowNibbles(both), 4 * j);
      f(V::HighNibbles(both), 16 + 4 * j);
    }
  }
};

template <class V>
struct Int8Chunk {
  static constexpr int kBytes = 512;
  static constexpr int kLimit = 255;
  template <class F>
  [[gnu::always_inline]] static void ForEach(const uint8_t* codes, F&& f) {
    for (int j = 0; j < 8; ++j) f(V::LoadBytes(codes + 64 * j), 4 * j);
  }
};

// Half of the above: 16 columns.
template <class V>
struct Int8HalfChunk {
  static constexpr int kBytes = 256;
  static constexpr int kLimit = 255;
  template <class F>
  [[gnu::always_inline]] static void ForEach(const uint8_t* codes, F&& f) {
    for (int j = 0; j < 4; ++j) f(V::LoadBytes(codes + 64 * j), 4 * j);
  }
};

// dots[t] += chunk . activations; `codes_of(t)` are the activations of the chunk's first column.
// Few tokens need several chains to hide the latency of one: integer sums do not care.
template <class V, class Chunk, int T, class CodesOf>
[[gnu::always_inline]] inline void DotChunk(const uint8_t* codes, CodesOf&& codes_of,
                                            typename V::Ints (&dots)[T]) {
  using Dot = typename V::template Dot<Chunk::kLimit>;
  constexpr int kChains = T == 1 ? 4 : T <= 3 ? 2 : 1;
  typename Dot::Sum sums[T][kChains];
  for (int t = 0; t < T; ++t) {
    for (int c = 0; c < kChains; ++c) sums[t][c] = c == 0 ? Dot::Begin(dots[t]) : Dot::Zero();
  }
  Chunk::ForEach(codes, [&](typename V::Ints w, int column) __attribute__((always_inline)) {
    for (int t = 0; t < T; ++t) {
      auto& sum = sums[t][column / 4 % kChains];
      sum = Dot::Add(sum, w, codes_of(t) + column);
    }
  });
  for (int t = 0; t < T; ++t) {
    typename V::Ints dot = Dot::End(sums[t][0], dots[t]);
    for (int c = 1; c < kChains; ++c) dot = V::AddInts(dot, Dot::End(sums[t][c], V::ZeroInts()));
    dots[t] = dot;
  }
}

// What an integer sum begins with: -zero point * sum of the activations. A policy that takes
// eight-bit codes as signed (kSignedBytes) has undone their zero point of 128 already.
template <class V, class Chunk, int kZeroShift>
[[gnu::always_inline]] inline typename V::Ints ZeroTerm(const uint8_t* minus_sum) {
  constexpr bool kUndone = kZeroShift == 7 && Chunk::kLimit == 255 && V::kSignedBytes;
  if constexpr (kZeroShift == 0 || kUndone) return V::ZeroInts();
  return V::template ShiftLeft<kZeroShift>(V::BroadcastInt(minus_sum));
}

template <class V, int T>
[[gnu::always_inline]] inline void StoreStrip(const typename V::Floats (&sums)[T], int first,
                                              int row0, const OutputTile& out) {
  for (int t = 0; t < T; ++t) {
    V::StoreRow(sums[t], out.y + (first + t) * out.stride + row0,
                out.bias == nullptr ? nullptr : out.bias + row0, out.num_rows - row0,
                out.accumulate);
  }
}

// Groups that are a multiple of 32. kZeroShift: log2 of the zero point, 0 for none.
template <class V, class Chunk, int T, bool kOffsets, int kZeroShift>
void GroupStrip(const WeightBlock& weight, const uint8_t* tile, TileLayout layout, int first,
                int row0, const OutputTile& out) {
  const int32_t chunks_per_scale = weight.group / kGroup;
  const uint8_t* codes = weight.codes + 4 * row0;
  ScaleReader<V> reader(weight, 0, row0);
  StripTokens<V, T, false> x{tile, layout, first};
  typename V::Floats sums[T];
  for (int t = 0; t < T; ++t) sums[t] = V::ZeroFloats();
  // A tile with halves has longer groups; everything before them lies the same.
  const int32_t group_bytes = layout.group_bytes();
  for (int32_t k = 0; k < weight.cols; k += weight.group) {
    const typename V::Floats scale = reader.Next();
    const typename V::Floats offset = kOffsets ? reader.Next() : V::ZeroFloats();
    for (int32_t c = 0; c < chunks_per_scale; ++c) {
      PrefetchCodes(codes, Chunk::kBytes);
      typename V::Ints dots[T];
      for (int t = 0; t < T; ++t) dots[t] = ZeroTerm<V, Chunk, kZeroShift>(x.MinusSum(t));
      DotChunk<V, Chunk, T>(codes, [&](int t) { return x.Codes(t); }, dots);
      for (int t = 0; t < T; ++t) {
        const typename V::Floats both = V::Mul(scale, V::BroadcastFloat(x.Scale(t)));
        sums[t] = V::Fma(both, V::ToFloats(dots[t]), sums[t]);
        if constexpr (kOffsets) sums[t] = V::Fma(offset, V::BroadcastFloat(x.Sum(t)), sums[t]);
      }
      codes += Chunk::kBytes;
      x.group += group_bytes;
    }
  }
  StoreStrip<V, T>(sums, first, row0, out);
}

// int8 with a scale every 16 columns: as above, a half at a time.
template <class V, int T, bool kOffsets>
void HalfGroupStrip(const WeightBlock& weight, const uint8_t* tile, TileLayout layout, int first,
                    int row0, const OutputTile& out) {
  using Chunk = Int8HalfChunk<V>;
  const uint8_t* codes = weight.codes + 4 * row0;
  ScaleReader<V> reader(weight, 0, row0);
  StripTokens<V, T, true> x{tile, layout, first};
  typename V::Floats sums[T];
  for (int t = 0; t < T; ++t) sums[t] = V::ZeroFloats();
  for (int32_t k = 0; k < weight.cols; k += kGroup, x.NextGroup()) {
    for (int half = 0; half < 2; ++half) {
      const typename V::Floats scale = reader.Next();
      const typename V::Floats offset = kOffsets ? reader.Next() : V::ZeroFloats();
      PrefetchCodes(codes, Chunk::kBytes);
      typename V::Ints dots[T];
      for (int t = 0; t < T; ++t) dots[t] = ZeroTerm<V, Chunk, 7>(x.HalfMinusSum(half, t));
      DotChunk<V, Chunk, T>(codes, [&](int t) { return x.Codes(t) + 16 * half; }, dots);
      for (int t = 0; t < T; ++t) {
        const typename V::Floats both = V::Mul(scale, V::BroadcastFloat(x.Scale(t)));
        sums[t] = V::Fma(both, V::ToFloats(dots[t]), sums[t]);
        if constexpr (kOffsets) {
          sums[t] = V::Fma(offset, V::BroadcastFloat(x.HalfSum(half, t)), sums[t]);
        }
      }
      codes += Chunk::kBytes;
    }
  }
  StoreStrip<V, T>(sums, first, row0, out);
}

using StripFunction = void (*)(const WeightBlock&, const uint8_t*, TileLayout, int, int,
                               const OutputTile&);

template <class V, int T>
StripFunction StripFor(const WeightBlock& weight) {
  if (weight.storage == Storage::kInt4) {
    if (weight.has_offsets) return GroupStrip<V, Int4Chunk<V>, T, true, 0>;
    return weight.zero_point == 8 ? GroupStrip<V, Int4Chunk<V>, T, false, 3>
                                  : GroupStrip<V, Int4Chunk<V>, T, false, 0>;
  }
  if (weight.group < kGroup) {
    return weight.has_offsets ? HalfGroupStrip<V, T, true> : HalfGroupStrip<V, T, false>;
  }
  return weight.has_offsets ? GroupStrip<V, Int8Chunk<V>, T, true, 7>
                            : GroupStrip<V, Int8Chunk<V>, T, false, 7>;
}

// N tokens from `first` on, in strips of as many as the registers hold.
template <class V, int N = V::kStripTokens>
void StripsOf(const WeightBlock& weight, const uint8_t* tile, TileLayout layout, int first,
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
void IntTile(const WeightBlock& weight, const uint8_t* tile, TileLayout layout,
             const OutputTile& out) {
  for (int first = 0; first < layout.tokens; first += V::kStripTokens) {
    StripsOf<V>(weight, tile, layout, first, out);
  }
}

}  // namespace
}  // namespace nibble::cpu

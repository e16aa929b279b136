// How rows of x become the int8 tiles of the linear op, written once for every instruction set: see
// linear_kernels.h for what a tile is, linear_tiles_inl.h for who meets it.
#pragma once

#include "kernels/cpu/linear_kernels.h"

namespace nibble::cpu {
namespace {

constexpr int kGroupsAhead = 4;  // of the one being quantized: 1.4 KB of a whole tile

// N numbers, one a token. The compiler's own vectors, since it leaves loops with conditional
// divisions as they are.
template <int N>
struct Tokens {
  typedef float Floats __attribute__((vector_size(4 * N)));
  typedef int32_t Ints __attribute__((vector_size(4 * N)));
  typedef uint32_t Bits __attribute__((vector_size(4 * N)));

  template <class Vector>
  [[gnu::always_inline]] static Vector Load(const void* from) {
    Vector vector;
    __builtin_memcpy(&vector, from, sizeof(vector));
    return vector;
  }
  // The nearest integers (ties to even) of numbers from 0 to 2^22.
  [[gnu::always_inline]] static Ints Round(Floats x) {
    return (Ints)(x + 12582912.0f) - 0x4B400000;  // 1.5 * 2^23, and its bits
  }
};

// What the codes of each token are multiplied with, and its x to become codes.
struct GroupScales {
  float scale[kTileTokens], inverse[kTileTokens];

  // Of the first N tokens. The magnitudes of floats order like their bits, and so do infinity and
  // NaN above them.
  template <int N>
  [[gnu::always_inline]] void Set(const uint32_t* largest_bits) {
    using T = Tokens<N>;
    using Floats = typename T::Floats;
    const auto bits = T::template Load<typename T::Bits>(largest_bits);
    const auto largest = (Floats)bits;
    const Floats none = {};
    const Floats of_codes = largest < kSmallestScaled ? none : largest / 127.0f;
    const Floats of_x = largest < kSmallestScaled ? none : 127.0f / largest;
    const Floats scales = bits >= 0x7F800000u ? none + __builtin_nanf("") : of_codes;
    const Floats inverses = bits >= 0x7F800000u ? none : of_x;
    __builtin_memcpy(scale, &scales, sizeof(scales));
    __builtin_memcpy(inverse, &inverses, sizeof(inverses));
  }
};

// Quantizes 32 columns of the tokens of a tile (linear_kernels.h says into what), step by step for
// all tokens, so that none waits for the sums and the divisions of another.
template <class V>
[[gnu::always_inline]] inline void QuantizeGroup(const float* x, int64_t x_stride,
                                                 const TileLayout& layout, uint8_t* group) {
  uint32_t largest_bits[kTileTokens] = {};
  for (int t = 0; t < layout.tokens; ++t) largest_bits[t] = V::MaxMagnitude32(x + t * x_stride);
  GroupScales scales;
  if (layout.tokens == 1) {
    scales.Set<1>(largest_bits);
  } else {
    scales.Set<kTileTokens>(largest_bits);
  }
  int32_t sums[kTileTokens][2];  // of each half
  for (int t = 0; t < layout.tokens; ++t) {
    V::Quantize32(x + t * x_stride, scales.inverse[t], group + t * kGroup, sums[t]);
  }
  const auto store = [&](int32_t minus_sum_at, int32_t sum_at, int first_half, int last_half) {
    for (int t = 0; t < layout.tokens; ++t) {
      int32_t total = 0;
      for (int half = first_half; half <= last_half; ++half) total += sums[t][half];
      const int32_t minus = -total;
      const float scaled = scales.scale[t] * static_cast<float>(total);
      __builtin_memcpy(group + minus_sum_at + 4 * t, &minus, 4);
      __builtin_memcpy(group + sum_at + 4 * t, &scaled, 4);
    }
  };
  __builtin_memcpy(group + layout.scale_at(), scales.scale, 4 * layout.tokens);
  store(layout.minus_sum_at(), layout.sum_at(), 0, 1);
  for (int half = 0; half < 2 && layout.halves; ++half) {
    store(layout.half_minus_sum_at(half), layout.half_sum_at(half), half, half);
  }
}

// The same of a whole tile without halves, by a policy that puts eight tokens together at once.
template <class V>
[[gnu::always_inline]] inline void QuantizeWholeGroup(const float* x, int64_t x_stride,
                                                      uint8_t* group) {
  constexpr TileLayout kLayout{.tokens = kTileTokens};
  uint32_t largest_bits[kTileTokens];
  V::MaxMagnitudes8(x, x_stride, largest_bits);
  GroupScales scales;
  scales.Set<kTileTokens>(largest_bits);
  int32_t minus[kTileTokens];
  V::Quantize8(x, x_stride, scales.inverse, group, minus);
  float sums[kTileTokens];
  for (int t = 0; t < kTileTokens; ++t) {
    sums[t] = scales.scale[t] * static_cast<float>(minus[t]);
    minus[t] = -minus[t];
  }
  __builtin_memcpy(group + kLayout.scale_at(), scales.scale, sizeof(scales.scale));
  __builtin_memcpy(group + kLayout.minus_sum_at(), minus, sizeof(minus));
  __builtin_memcpy(group + kLayout.sum_at(), sums, sizeof(sums));
}

// What weights with words take (linear_kernels.h) of tokens t .. t + N - 1 of two groups already
// quantized; `second` is null for one without a partner.
template <int N>
[[gnu::always_inline]] inline void MakeWords(const TileLayout& layout, int t, const uint8_t* first,
                                             const uint8_t* second, uint8_t* pair) {
  using T = Tokens<N>;
  using Floats = typename T::Floats;
  using Ints = typename T::Ints;
  Floats scale[2] = {};
  Ints minus_sum[2] = {};
  const auto load = [&](int i, const uint8_t* group) __attribute__((always_inline)) {
    scale[i] = T::template Load<Floats>(group + layout.scale_at() + 4 * t);
    minus_sum[i] = T::template Load<Ints>(group + layout.minus_sum_at() + 4 * t);
  };
  load(0, first);
  if (second != nullptr) load(1, second);
  const Floats none = {};
  const Floats larger = scale[0] > scale[1] ? scale[0] : scale[1];
  const Floats inverse = larger > none ? kActivationScaleOne / larger : none;
  Ints word[2], sum[2], centers[2];
  for (int i = 0; i < 2; ++i) {
    const Floats ratio = scale[i] * inverse;  // NaN has no word
    word[i] = T::Round(ratio >= none ? ratio : none);
    sum[i] = (word[i] * -minus_sum[i] + (1 << (kSumWordShift - 1))) >> kSumWordShift;
    centers[i] = kWordCenter * minus_sum[i];
  }
  const Ints scales = (word[0] & 0xFFFF) | (word[1] << 16);
  const Ints sums = (sum[0] & 0xFFFF) | (sum[1] << 16);
  // A NaN of either spoils both.
  const Floats factor = kFactorScale * larger + 0.0f * (scale[0] + scale[1]);
  const auto store = [&](int32_t field, const auto& from) __attribute__((always_inline)) {
    __builtin_memcpy(pair + field + 4 * t, &from, sizeof(from));
  };
  for (int i = 0; i < 2; ++i) store(layout.pair_minus_sum_at(i), centers[i]);
  store(layout.pair_scales_at(), scales);
  store(layout.pair_sums_at(), sums);
  store(layout.pair_factor_at(), factor);
}

// The pairs of columns k0 .. k1 - 1.
[[gnu::always_inline]] inline void MakeTileWords(int32_t k0, int32_t k1, const TileLayout& layout,
                                                 uint8_t* tile) {
  const int32_t group_bytes = layout.group_bytes();
  uint8_t* pair = tile + layout.pairs_at() + k0 / (2 * kGroup) * layout.pair_bytes();
  for (int32_t k = k0; k < k1; k += 2 * kGroup, pair += layout.pair_bytes()) {
    const uint8_t* const first = tile + k / kGroup * group_bytes;
    const uint8_t* const second = k + kGroup < k1 ? first + group_bytes : nullptr;
    if (layout.tokens == kTileTokens) {
      MakeWords<kTileTokens>(layout, 0, first, second, pair);
    } else {
      for (int t = 0; t < layout.tokens; ++t) MakeWords<1>(layout, t, first, second, pair);
    }
  }
}

// As the groups' lines: for writing.
[[gnu::always_inline]] inline void PrefetchPairs(int32_t k0, int32_t k1, const TileLayout& layout,
                                                 uint8_t* tile) {
  constexpr int32_t kMost = 1024;  // bytes; the stores hide the others of many tokens
  const uint8_t* const pairs = tile + layout.pairs_at() + k0 / (2 * kGroup) * layout.pair_bytes();
  const int32_t bytes = NumPairs((k1 - k0) / kGroup) * layout.pair_bytes();
  for (int32_t i = 0; i < bytes && i < kMost; i += 64) __builtin_prefetch(pairs + i, 1);
}

template <class V>
void QuantizeTile(const float* x, int64_t x_stride, int32_t k0, int32_t k1,
                  const TileLayout& layout, uint8_t* tile) {
  const int32_t group_bytes = layout.group_bytes();
  uint8_t* const end = tile + k1 / kGroup * group_bytes;
  if (layout.word_groups > 0) PrefetchPairs(k0, k1, layout, tile);
  const auto quantize = [&](int32_t tokens) __attribute__((always_inline)) {
    const TileLayout same{
        .tokens = tokens, .halves = layout.halves, .word_groups = layout.word_groups};
    [[maybe_unused]] const bool whole = tokens == kTileTokens && !layout.halves;
    uint8_t* group = tile + k0 / kGroup * group_bytes;
    uint8_t* owned = group;
    for (int32_t k = k0; k < k1; k += kGroup, group += group_bytes) {
      // All threads read the tile before: its lines are fetched for writing while others are
      // computed, because stores wait for them one after the other.
      uint8_t* const ahead = group + kGroupsAhead * group_bytes;
      for (; owned < ahead && owned < end; owned += 64) __builtin_prefetch(owned, 1);
      if constexpr (requires { V::Quantize8; }) {
        if (whole) {
          QuantizeWholeGroup<V>(x + k, x_stride, group);
          continue;
        }
      }
      QuantizeGroup<V>(x + k, x_stride, same, group);
    }
    if (layout.word_groups > 0) MakeTileWords(k0, k1, same, tile);
  };
  // The two usual numbers of tokens as constants: loops unrolled, addresses known.
  if (layout.tokens == kTileTokens) {
    quantize(kTileTokens);
  } else if (layout.tokens == 1) {
    quantize(1);
  } else {
    quantize(layout.tokens);
  }
}

}  // namespace
}  // namespace nibble::cpu

// How rows of x become the int8 tiles of the linear op, written once for every instruction set: see
// linear_kernels.h for what a tile is, linear_tiles_inl.h for who meets it.
#pragma once

#include "kernels/cpu/linear_kernels.h"

namespace nibble::cpu {
namespace {

constexpr int kGroupsAhead = 4;  // of the one being quantized: 1.4 KB of a whole tile

// What the codes of each token are multiplied with, and its x to become codes.
struct GroupScales {
  float scale[kTileTokens], inverse[kTileTokens];

  // The magnitudes of floats order like their bits, and so do infinity and NaN above them.
  [[gnu::always_inline]] explicit GroupScales(const uint32_t (&largest_bits)[kTileTokens]) {
    for (int t = 0; t < kTileTokens; ++t) {
      const float largest = __builtin_bit_cast(float, largest_bits[t]);
      const bool spoilt = largest_bits[t] >= 0x7F800000u, zero = largest < kSmallestScaled;
      scale[t] = spoilt ? __builtin_nanf("") : zero ? 0 : largest / 127.0f;
      inverse[t] = spoilt || zero ? 0 : 127.0f / largest;
    }
  }
};

// Quantizes 32 columns of the tokens of a tile (linear_kernels.h says into what), step by step for
// all tokens, so that none waits for the sums and the divisions of another.
template <class V>
[[gnu::always_inline]] inline void QuantizeGroup(const float* x, int64_t x_stride,
                                                 const TileLayout& layout, uint8_t* group) {
  uint32_t largest_bits[kTileTokens] = {};
  for (int t = 0; t < layout.tokens; ++t) largest_bits[t] = V::MaxMagnitude32(x + t * x_stride);
  const GroupScales scales(largest_bits);
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
  const GroupScales scales(largest_bits);
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
  float scale[2][N] = {};
  int32_t minus_sum[2][N] = {};
  const auto load = [&](int i, const uint8_t* group) __attribute__((always_inline)) {
    __builtin_memcpy(scale[i], group + layout.scale_at() + 4 * t, 4 * N);
    __builtin_memcpy(minus_sum[i], group + layout.minus_sum_at() + 4 * t, 4 * N);
  };
  load(0, first);
  if (second != nullptr) load(1, second);
  int32_t centers[2][N], scales[N], sums[N];
  float factor[N];
  for (int n = 0; n < N; ++n) {
    const float larger = scale[0][n] > scale[1][n] ? scale[0][n] : scale[1][n];
    const float inverse = larger > 0 ? kActivationScaleOne / larger : 0.0f;
    int32_t word[2], sum[2];
    for (int i = 0; i < 2; ++i) {
      const float ratio = scale[i][n] * inverse;  // NaN has no word
      word[i] = static_cast<int32_t>(ratio >= 0 ? __builtin_rintf(ratio) : 0.0f);
      sum[i] = (word[i] * -minus_sum[i][n] + (1 << (kSumWordShift - 1))) >> kSumWordShift;
      centers[i][n] = kWordCenter * minus_sum[i][n];
    }
    scales[n] = (word[0] & 0xFFFF) | static_cast<int32_t>(static_cast<uint32_t>(word[1]) << 16);
    sums[n] = (sum[0] & 0xFFFF) | static_cast<int32_t>(static_cast<uint32_t>(sum[1]) << 16);
    // A NaN of either spoils both.
    factor[n] = kFactorScale * larger + 0 * (scale[0][n] + scale[1][n]);
  }
  const auto store = [&](int32_t field, const void* from) __attribute__((always_inline)) {
    __builtin_memcpy(pair + field + 4 * t, from, 4 * N);
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

// How the scales and offsets of a row block are read: one reader a ScaleType, each written once
// over the vector policy V (linear_tiles_inl.h). A reader stands at columns 0 of kLanes features
// and has
//
//   kOffsets   whether there are any
//   Next()     the scales, and offsets, of the next group
//   Skip(n)    n groups further
#pragma once

#include "kernels/cpu/linear_chunks_inl.h"

namespace nibble::cpu {
namespace {

// As kPrefetchBytes: scales are a stream of their own.
constexpr int kPrefetchScaleBytes = 1024;

template <class V>
struct ScalePair {
  typename V::Floats scale;
  typename V::Floats offset;  // zero without kOffsets
};

template <class V>
ScalePair<V> ZeroPair() {
  return {V::ZeroFloats(), V::ZeroFloats()};
}

// f32, f16 or e8m0: arrays of 16. kAllF16: known to be f16, for the formats of most files; asking
// at every group costs their strips 2 %.
template <class V, bool kHasOffsets, bool kAllF16 = false>
struct PlainScales {
  static constexpr bool kOffsets = kHasOffsets;
  const uint8_t* at;
  ScaleType type;
  int32_t step;  // bytes of 16 scales

  PlainScales(const WeightBlock& weight, int row0)
      : type(kAllF16 ? ScaleType::kF16 : weight.scale_type),
        step(kBlockRows * (type == ScaleType::kF16   ? 2
                           : type == ScaleType::kF32 ? 4
                                                     : 1)) {
    at = weight.scales + row0 * (step / kBlockRows);
  }
  [[gnu::always_inline]] typename V::Floats NextArray() {
    const uint8_t* p = at;
    __builtin_prefetch(p + kPrefetchScaleBytes, 0, 3);
    at += step;
    if (kAllF16 || type == ScaleType::kF16) return V::LoadF16(p);
    if (kOffsets || type == ScaleType::kF32) return V::LoadFloats(p);
    return V::AsFloats(V::template ShiftLeft<23>(V::WidenU8(p)));  // e8m0 has no offsets
  }
  [[gnu::always_inline]] ScalePair<V> Next() {
    const typename V::Floats scale = NextArray();
    return {scale, kOffsets ? NextArray() : V::ZeroFloats()};
  }
  void Skip(int32_t groups) { at += static_cast<int64_t>(groups) * step * (kOffsets ? 2 : 1); }
};

// Q4_K and Q5_K. The 6-bit fields of a super-block are put together 64 bytes at a time when its
// first group is read, all 16 rows of it: about 30 instructions for 8 groups.
template <class V>
struct Q4KScales {
  static constexpr bool kOffsets = true;
  static constexpr int kGroups = 8;
  const uint8_t* super;
  int row0;
  int group = 0;
  typename V::Floats d, minus_dmin;
  alignas(64) uint8_t scales[kGroups * kBlockRows];
  alignas(64) uint8_t mins[kGroups * kBlockRows];

  Q4KScales(const WeightBlock& weight, int first_row) : super(weight.scales), row0(first_row) {}
  [[gnu::always_inline]] void Open() {
    for (int i = 0; i < kQ4KScaleBytes; i += 64) {
      __builtin_prefetch(super + kPrefetchScaleBytes + i, 0, 3);
    }
    d = V::LoadF16(super + 2 * row0);
    minus_dmin = V::LoadF16(super + kQ4KMinAt + 2 * row0);
    for (int i = 0; i < 64; i += 4 * V::kLanes) {
      const typename V::Ints upper = V::LoadBytes(super + kQ4KUpperAt + i);
      const typename V::Ints first = V::LoadBytes(super + kQ4KLowerAt + i);        // groups 0 .. 3
      const typename V::Ints second = V::LoadBytes(super + kQ4KLowerAt + 64 + i);  // 4 .. 7
      V::StoreBytes(scales + i, V::Or(V::LowNibbles(first), MoveBits<V, 0, 4, 0x30>(upper)));
      V::StoreBytes(mins + i, V::Or(V::HighNibbles(first), MoveBits<V, 2, 4, 0x30>(upper)));
      V::StoreBytes(scales + 64 + i, V::Or(V::LowNibbles(second), MoveBits<V, 4, 4, 0x30>(upper)));
      V::StoreBytes(mins + 64 + i, V::Or(V::HighNibbles(second), MoveBits<V, 6, 4, 0x30>(upper)));
    }
    super += kQ4KScaleBytes;
  }
  [[gnu::always_inline]] ScalePair<V> Next() {
    if (group == 0) Open();
    const int at = group * kBlockRows + row0;
    group = (group + 1) % kGroups;
    return {V::Mul(d, V::ToFloats(V::WidenU8(scales + at))),
            V::Mul(minus_dmin, V::ToFloats(V::WidenU8(mins + at)))};
  }
  void Skip(int32_t groups) {
    super += kQ4KScaleBytes * static_cast<int64_t>(groups / kGroups);
    if (groups % kGroups == 0) return;
    Open();
    group = groups % kGroups;
  }
};

template <class V>
struct Q6KScales {
  static constexpr bool kOffsets = false;
  static constexpr int kGroups = 16;
  const uint8_t* super;
  int row0;
  int group = 0;
  typename V::Floats d;

  Q6KScales(const WeightBlock& weight, int first_row) : super(weight.scales), row0(first_row) {}
  [[gnu::always_inline]] ScalePair<V> Next() {
    if (group == 0) d = V::LoadF16(super + 2 * row0);
    const uint8_t* sub = super + kQ6KSubScalesAt + group * kBlockRows + row0;
    if (group % 4 == 0) __builtin_prefetch(sub + kPrefetchScaleBytes, 0, 3);
    if (++group == kGroups) {
      group = 0;
      super += kQ6KScaleBytes;
    }
    return {V::Mul(d, V::ToFloats(V::WidenS8(sub))), V::ZeroFloats()};
  }
  void Skip(int32_t groups) {
    super += kQ6KScaleBytes * static_cast<int64_t>(groups / kGroups);
    group = groups % kGroups;
    d = V::LoadF16(super + 2 * row0);
  }
};

}  // namespace
}  // namespace nibble::cpu

// How 32 columns of a format become the unsigned bytes that integer dot products take: one chunk
// type a storage, each written once over the vector policy V (linear_tiles_inl.h). A chunk has
//
//   kBytes   bytes of 32 columns in the row block (packed_matrix.h has the layouts)
//   kLimit   the largest code: a policy without a 32-bit dot product knows how many it may add
//   Chunk(weight)  what the tile keeps in registers for it: nothing, but for a table
//   ForEach(codes, f)      f(w, column), w holding columns column .. column + 3 of kLanes features
//   ForHalf<kHalf>(codes, f)  the same for columns 16 * kHalf .. 16 * kHalf + 15 only
#pragma once

#include "kernels/cpu/linear_kernels.h"

namespace nibble::cpu {
namespace {

// The bits kFrom .. of each byte that `kMask` selects once they are moved to bit kTo. Bits that a
// shift of 32-bit lanes brings over from a neighbouring byte are not among them.
template <class V, int kFrom, int kTo, int kMask>
[[gnu::always_inline]] inline typename V::Ints MoveBits(typename V::Ints bytes) {
  const typename V::Ints mask = V::SetInt(kMask * 0x01010101);
  if constexpr (kFrom > kTo) return V::And(V::template ShiftRight<kFrom - kTo>(bytes), mask);
  if constexpr (kFrom < kTo) return V::And(V::template ShiftLeft<kTo - kFrom>(bytes), mask);
  return V::And(bytes, mask);
}

template <class V>
struct Int4Chunk {
  static constexpr int kBytes = 256;
  static constexpr int kLimit = 15;
  explicit Int4Chunk(const WeightBlock&) {}
  template <class F>
  [[gnu::always_inline]] void ForEach(const uint8_t* codes, F&& f) const {
    for (int j = 0; j < 4; ++j) {
      const typename V::Ints both = V::LoadBytes(codes + 64 * j);
      f(V::LowNibbles(both), 4 * j);
      f(V::HighNibbles(both), 16 + 4 * j);
    }
  }
  template <int kHalf, class F>
  [[gnu::always_inline]] void ForHalf(const uint8_t* codes, F&& f) const {
    for (int j = 0; j < 4; ++j) {
      const typename V::Ints both = V::LoadBytes(codes + 64 * j);
      f(kHalf == 0 ? V::LowNibbles(both) : V::HighNibbles(both), 16 * kHalf + 4 * j);
    }
  }
};

template <class V>
struct Int5Chunk {
  static constexpr int kBytes = 320;
  static constexpr int kLimit = 31;
  explicit Int5Chunk(const WeightBlock&) {}
  template <class F>
  [[gnu::always_inline]] void ForEach(const uint8_t* codes, F&& f) const {
    const typename V::Ints fifth = V::LoadBytes(codes + 256);
    const auto pair = [&]<int j>() __attribute__((always_inline)) {
      const typename V::Ints both = V::LoadBytes(codes + 64 * j);
      f(V::Or(V::LowNibbles(both), MoveBits<V, j, 4, 16>(fifth)), 4 * j);
      f(V::Or(V::HighNibbles(both), MoveBits<V, j + 4, 4, 16>(fifth)), 16 + 4 * j);
    };
    pair.template operator()<0>();
    pair.template operator()<1>();
    pair.template operator()<2>();
    pair.template operator()<3>();
  }
  template <int kHalf, class F>
  [[gnu::always_inline]] void ForHalf(const uint8_t* codes, F&& f) const {
    ForEach(codes, [&](typename V::Ints w, int column) __attribute__((always_inline)) {
      if (column / 16 == kHalf) f(w, column);
    });
  }
};

template <class V>
struct Int6Chunk {
  static constexpr int kBytes = 384;
  static constexpr int kLimit = 63;
  explicit Int6Chunk(const WeightBlock&) {}
  template <int kHalf, class F>
  [[gnu::always_inline]] void ForHalf(const uint8_t* codes, F&& f) const {
    const typename V::Ints upper = V::LoadBytes(codes + 256 + 64 * kHalf);
    const auto one = [&]<int j>() __attribute__((always_inline)) {
      const typename V::Ints both = V::LoadBytes(codes + 64 * j);
      const typename V::Ints low = kHalf == 0 ? V::LowNibbles(both) : V::HighNibbles(both);
      f(V::Or(low, MoveBits<V, 2 * j, 4, 0x30>(upper)), 16 * kHalf + 4 * j);
    };
    one.template operator()<0>();
    one.template operator()<1>();
    one.template operator()<2>();
    one.template operator()<3>();
  }
  template <class F>
  [[gnu::always_inline]] void ForEach(const uint8_t* codes, F&& f) const {
    ForHalf<0>(codes, f);
    ForHalf<1>(codes, f);
  }
};

template <class V>
struct Int8Chunk {
  static constexpr int kBytes = 512;
  static constexpr int kLimit = 255;
  explicit Int8Chunk(const WeightBlock&) {}
  template <class F>
  [[gnu::always_inline]] void ForEach(const uint8_t* codes, F&& f) const {
    for (int j = 0; j < 8; ++j) f(V::LoadBytes(codes + 64 * j), 4 * j);
  }
  template <int kHalf, class F>
  [[gnu::always_inline]] void ForHalf(const uint8_t* codes, F&& f) const {
    for (int j = 4 * kHalf; j < 4 * kHalf + 4; ++j) f(V::LoadBytes(codes + 64 * j), 4 * j);
  }
};

// Codes through one plane of a table of bytes.
template <class V>
struct LutPlane {
  static constexpr int kLimit = 255;
  typename V::Ints table;
  explicit LutPlane(const uint8_t* plane) : table(V::RepeatBytes16(plane)) {}
  template <class F>
  [[gnu::always_inline]] void ForEach(const uint8_t* codes, F&& f) const {
    Int4Chunk<V>(WeightBlock{})
        .ForEach(codes, [&](typename V::Ints w, int column)
                            __attribute__((always_inline)) { f(V::Lookup(table, w), column); });
  }
  template <int kHalf, class F>
  [[gnu::always_inline]] void ForHalf(const uint8_t* codes, F&& f) const {
    Int4Chunk<V>(WeightBlock{})
        .template ForHalf<kHalf>(codes, [&](typename V::Ints w, int column) __attribute__((
                                            always_inline)) { f(V::Lookup(table, w), column); });
  }
};

template <class V>
struct LutChunk : LutPlane<V> {
  static constexpr int kBytes = 256;
  explicit LutChunk(const WeightBlock& weight) : LutPlane<V>(weight.lut->high) {}
};

// Two planes (LutTable): two dot products, so there is no ForEach of the whole.
template <class V>
struct LutPairChunk {
  static constexpr int kBytes = 256;
  LutPlane<V> high, low;
  explicit LutPairChunk(const WeightBlock& weight) : high(weight.lut->high), low(weight.lut->low) {}
};

}  // namespace
}  // namespace nibble::cpu

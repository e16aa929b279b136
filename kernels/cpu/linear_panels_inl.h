// The f32 side of the linear op, written once for every instruction set (see linear_tiles_inl.h):
// weights dequantized a panel at a time into the L1 cache, f32 activations times a panel, and
// storing what a strip summed.
#pragma once

#include "kernels/cpu/linear_quantize_inl.h"
#include "kernels/cpu/linear_tiles_inl.h"

namespace nibble::cpu {
namespace {

// Four columns of kLanes rows from a vector whose byte 4 * row + i is the code of column i.
template <class V>
[[gnu::always_inline]] inline void DequantizeFour(typename V::Ints codes,
                                                  typename V::Ints zero_point,
                                                  typename V::Floats scale,
                                                  typename V::Floats offset, bool has_offsets,
                                                  float* panel) {
  for (int i = 0; i < 4; ++i) {
    const typename V::Ints code = V::SubInts(V::ByteOf(codes, i), zero_point);
    typename V::Floats value = V::Mul(scale, V::ToFloats(code));
    if (has_offsets) value = V::Add(value, offset);
    V::StoreFloats(panel + i * kBlockRows, value);
  }
}

// Of 32 columns: the same for both halves unless a scale covers 16.
template <class V, class Scales>
[[gnu::always_inline]] inline void NextScales(Scales& scales, const WeightBlock& weight, int32_t k,
                                              bool is_first, ScalePair<V> (&halves)[2]) {
  if (weight.group < kGroup) {
    halves[0] = scales.Next();
    halves[1] = scales.Next();
  } else if (is_first || k % weight.group == 0) {
    halves[0] = halves[1] = scales.Next();
  }
}

template <class V, class Chunk, class Scales>
void DequantizeInts(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  const typename V::Ints zero_point = V::SetInt(weight.zero_point);
  const Chunk chunk(weight);
  Scales scales(weight, row0);
  scales.Skip(k0 / weight.group);
  ScalePair<V> halves[2] = {ZeroPair<V>(), ZeroPair<V>()};
  for (int32_t k = k0; k < k1; k += kGroup) {
    NextScales<V>(scales, weight, k, k == k0, halves);
    chunk.ForEach(weight.codes + 4 * row0 + k / kGroup * static_cast<int64_t>(Chunk::kBytes),
                  [&](typename V::Ints w, int column) __attribute__((always_inline)) {
                    const ScalePair<V>& half = halves[column / 16];
                    DequantizeFour<V>(w, zero_point, half.scale, half.offset, Scales::kOffsets,
                                      panel + (k - k0 + column) * kBlockRows);
                  });
  }
}

template <class V, class Chunk>
void DequantizePlainInts(const WeightBlock& weight, int32_t k0, int32_t k1, int row0,
                         float* panel) {
  (weight.has_offsets
       ? DequantizeInts<V, Chunk, PlainScales<V, true>>
       : DequantizeInts<V, Chunk, PlainScales<V, false>>)(weight, k0, k1, row0, panel);
}

// Through the table itself, which the integer tiles may only approximate.
template <class V>
void DequantizeLut(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  const typename V::Table16 table = V::LoadTable16(weight.lut->values);
  const Int4Chunk<V> chunk(weight);
  PlainScales<V, false> scales(weight, row0);
  scales.Skip(k0 / weight.group);
  ScalePair<V> halves[2] = {ZeroPair<V>(), ZeroPair<V>()};
  for (int32_t k = k0; k < k1; k += kGroup) {
    NextScales<V>(scales, weight, k, k == k0, halves);
    chunk.ForEach(weight.codes + 4 * row0 + k / kGroup * static_cast<int64_t>(chunk.kBytes),
                  [&](typename V::Ints w, int column) __attribute__((always_inline)) {
                    for (int i = 0; i < 4; ++i) {
                      const typename V::Floats value = V::Lookup16(table, V::ByteOf(w, i));
                      V::StoreFloats(panel + (k - k0 + column + i) * kBlockRows,
                                     V::Mul(halves[column / 16].scale, value));
                    }
                  });
  }
}

// Groups of any number of columns. An e4m3 is loaded as 2^-8 of its value.
template <class V, bool kE4m3>
void DequantizeFp8(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  PlainScales<V, false> scales(weight, row0);
  scales.Skip(k0 / weight.group);
  for (int32_t k = k0; k < k1;) {
    typename V::Floats scale = scales.Next().scale;
    if constexpr (kE4m3) scale = V::Mul(scale, V::SetFloat(256.0f));
    const int32_t end_of_group = (k / weight.group + 1) * weight.group;
    const int32_t end = end_of_group < k1 ? end_of_group : k1;
    for (; k < end; ++k, panel += kBlockRows) {
      const uint8_t* codes = weight.codes + static_cast<int64_t>(k) * kBlockRows + row0;
      V::StoreFloats(panel, V::Mul(scale, kE4m3 ? V::LoadE4m3(codes) : V::LoadE5m2(codes)));
    }
  }
}

template <class V, bool kIsF32>
void DequantizeFloats(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  for (int32_t k = k0; k < k1; ++k, panel += kBlockRows) {
    const int64_t element = static_cast<int64_t>(k) * kBlockRows + row0;
    V::StoreFloats(panel, kIsF32 ? V::LoadFloats(weight.codes + 4 * element)
                                 : V::LoadBf16(weight.codes + 2 * element));
  }
}

using PanelFunction = void (*)(const WeightBlock&, int32_t, int32_t, int, float*);

template <class V>
PanelFunction PanelFor(const WeightBlock& weight) {
  const bool q4k_scales = weight.scale_type == ScaleType::kQ4K;
  switch (weight.storage) {
    case Storage::kInt4:
      return q4k_scales ? DequantizeInts<V, Int4Chunk<V>, Q4KScales<V>>
                        : DequantizePlainInts<V, Int4Chunk<V>>;
    case Storage::kInt5:
      return q4k_scales ? DequantizeInts<V, Int5Chunk<V>, Q4KScales<V>>
                        : DequantizePlainInts<V, Int5Chunk<V>>;
    case Storage::kInt6:
      return DequantizeInts<V, Int6Chunk<V>, Q6KScales<V>>;
    case Storage::kInt8:
      return DequantizePlainInts<V, Int8Chunk<V>>;
    case Storage::kLut4:
      return DequantizeLut<V>;
    case Storage::kE4m3:
      return DequantizeFp8<V, true>;
    case Storage::kE5m2:
      return DequantizeFp8<V, false>;
    case Storage::kBf16:
      return DequantizeFloats<V, false>;
    default:
      return DequantizeFloats<V, true>;
  }
}

template <class V>
void DequantizePanel(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel) {
  for (int row0 = 0; row0 < kBlockRows; row0 += V::kLanes) {
    PanelFor<V>(weight)(weight, k0, k1, row0, panel + row0);
  }
}

// sums[t][row0 ..] += panel[k][row0 ..] * x[t][k]: even and odd columns in a chain each, ascending,
// and the two added at the end of the panel. One chain would wait for itself where tokens are few.
template <class V, int T>
void PanelStrip(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
                float* sums) {
  for (int row0 = 0; row0 < kBlockRows; row0 += V::kLanes) {
    typename V::Floats even[T], odd[T];
    for (int t = 0; t < T; ++t) {
      even[t] = V::LoadFloats(sums + t * kBlockRows + row0);
      odd[t] = V::ZeroFloats();
    }
    const auto add = [&](int32_t k, typename V::Floats(&acc)[T]) __attribute__((always_inline)) {
      const typename V::Floats w = V::LoadFloats(panel + k * kBlockRows + row0);
      for (int t = 0; t < T; ++t) acc[t] = V::Fma(w, V::SetFloat(x[t * x_stride + k]), acc[t]);
    };
    int32_t k = 0;
    for (; k + 1 < num_cols; k += 2) {
      add(k, even);
      add(k + 1, odd);
    }
    if (k < num_cols) add(k, even);
    for (int t = 0; t < T; ++t) {
      V::StoreFloats(sums + t * kBlockRows + row0, V::Add(even[t], odd[t]));
    }
  }
}

template <class V, int N = V::kStripTokens>
void PanelStripOf(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
                  int32_t tokens, float* sums) {
  if constexpr (N > 1) {
    if (tokens < N) {
      return PanelStripOf<V, N - 1>(panel, num_cols, x, x_stride, tokens, sums);
    }
  }
  PanelStrip<V, N>(panel, num_cols, x, x_stride, sums);
}

template <class V>
void PanelTile(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
               int32_t tokens, float* sums) {
  for (int32_t first = 0; first < tokens; first += V::kStripTokens) {
    PanelStripOf<V>(panel, num_cols, x + first * x_stride, x_stride, tokens - first,
                    sums + first * kBlockRows);
  }
}

template <class V>
void StoreTile(const float* sums, int32_t tokens, const OutputTile& out) {
  for (int32_t t = 0; t < tokens; ++t) {
    for (int row0 = 0; row0 < out.num_rows; row0 += V::kLanes) {
      typename V::Floats one[1] = {V::LoadFloats(sums + t * kBlockRows + row0)};
      StoreStrip<V, 1>(one, t, row0, out);
    }
  }
}

template <class V>
constexpr LinearKernels MakeLinearKernels() {
  return {.quantize_tile = QuantizeTile<V>,
          .int_tile = IntTile<V>,
          .dequantize_panel = DequantizePanel<V>,
          .panel_tile = PanelTile<V>,
          .store_tile = StoreTile<V>};
}

}  // namespace
}  // namespace nibble::cpu

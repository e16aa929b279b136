// The f32 side of the linear op, written once for every instruction set (see linear_tiles_inl.h):
// weights dequantized a panel at a time into the L1 cache, f32 activations times a panel, and
// storing what a strip summed.
#pragma once

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

template <class V, class Chunk>
void DequantizeInts(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  const int64_t scales_a_group = kBlockRows * (weight.has_offsets ? 2 : 1);
  const typename V::Ints zero_point = V::SetInt(weight.zero_point);
  for (int32_t k = k0; k < k1; k += kGroup) {
    typename V::Floats scale[2], offset[2];  // of each half; the same unless the group is 16
    for (int half = 0; half < 2; ++half) {
      ScaleReader<V> reader(weight, (k + 16 * half) / weight.group * scales_a_group, row0);
      scale[half] = reader.Next();
      offset[half] = weight.has_offsets ? reader.Next() : V::ZeroFloats();
    }
    Chunk::ForEach(weight.codes + 4 * row0 + k / kGroup * Chunk::kBytes,
                   [&](typename V::Ints w, int column) __attribute__((always_inline)) {
                     DequantizeFour<V>(w, zero_point, scale[column / 16], offset[column / 16],
                                       weight.has_offsets, panel + (k - k0 + column) * kBlockRows);
                   });
  }
}

template <class V>
void DequantizeFloats(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  for (int32_t k = k0; k < k1; ++k, panel += kBlockRows) {
    const int64_t element = static_cast<int64_t>(k) * kBlockRows + row0;
    V::StoreFloats(panel, weight.storage == Storage::kF32
                              ? V::LoadFloats(weight.codes + 4 * element)
                              : V::LoadBf16(weight.codes + 2 * element));
  }
}

template <class V>
void DequantizePanel(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel) {
  for (int row0 = 0; row0 < kBlockRows; row0 += V::kLanes) {
    if (weight.storage == Storage::kInt4) {
      DequantizeInts<V, Int4Chunk<V>>(weight, k0, k1, row0, panel + row0);
    } else if (weight.storage == Storage::kInt8) {
      DequantizeInts<V, Int8Chunk<V>>(weight, k0, k1, row0, panel + row0);
    } else {
      DequantizeFloats<V>(weight, k0, k1, row0, panel + row0);
    }
  }
}

// sums[t][row0 ..] += panel[k][row0 ..] * x[t][k], columns ascending.
template <class V, int T>
void PanelStrip(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
                float* sums) {
  for (int row0 = 0; row0 < kBlockRows; row0 += V::kLanes) {
    typename V::Floats acc[T];
    for (int t = 0; t < T; ++t) acc[t] = V::LoadFloats(sums + t * kBlockRows + row0);
    for (int32_t k = 0; k < num_cols; ++k) {
      const typename V::Floats w = V::LoadFloats(panel + k * kBlockRows + row0);
      for (int t = 0; t < T; ++t) acc[t] = V::Fma(w, V::SetFloat(x[t * x_stride + k]), acc[t]);
    }
    for (int t = 0; t < T; ++t) V::StoreFloats(sums + t * kBlockRows + row0, acc[t]);
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
      const typename V::Floats one[1] = {V::LoadFloats(sums + t * kBlockRows + row0)};
      StoreStrip<V, 1>(one, t, row0, out);
    }
  }
}

// Quantizes 32 columns of a token (linear_kernels.h says into what).
template <class V>
[[gnu::always_inline]] inline void QuantizeGroup(const float* x, TileLayout layout, int32_t token,
                                                 uint8_t* group) {
  // The magnitudes of floats order like their bits, and so do infinity and NaN above them.
  const uint32_t bits = V::MaxMagnitude32(x);
  const float largest = __builtin_bit_cast(float, bits);
  float scale = largest / 127.0f;
  float inverse = 127.0f / largest;
  if (bits >= 0x7F800000u) {
    scale = __builtin_nanf("");
    inverse = 0;
  } else if (largest < kSmallestScaled) {
    scale = 0;
    inverse = 0;
  }
  int32_t sum[2];  // of each half
  V::Quantize32(x, inverse, group + token * kGroup, sum);
  const auto store = [&](int32_t minus_sum_at, int32_t sum_at, int32_t total) {
    const int32_t minus = -total;
    const float scaled = scale * static_cast<float>(total);
    __builtin_memcpy(group + minus_sum_at + 4 * token, &minus, 4);
    __builtin_memcpy(group + sum_at + 4 * token, &scaled, 4);
  };
  __builtin_memcpy(group + layout.scale_at() + 4 * token, &scale, 4);
  store(layout.minus_sum_at(), layout.sum_at(), sum[0] + sum[1]);
  for (int half = 0; half < 2 && layout.halves; ++half) {
    store(layout.half_minus_sum_at(half), layout.half_sum_at(half), sum[half]);
  }
}

template <class V>
void QuantizeRow(const float* x, int32_t cols, TileLayout layout, int32_t token, uint8_t* tile) {
  for (int32_t g = 0; g < cols / kGroup; ++g) {
    QuantizeGroup<V>(x + g * kGroup, layout, token, tile + g * layout.group_bytes());
  }
}

template <class V>
constexpr LinearKernels MakeLinearKernels() {
  return {.quantize_row = QuantizeRow<V>,
          .int_tile = IntTile<V>,
          .dequantize_panel = DequantizePanel<V>,
          .panel_tile = PanelTile<V>,
          .store_tile = StoreTile<V>};
}

}  // namespace
}  // namespace nibble::cpu

// AVX-512-VNNI: VPDPBUSD multiplies 64 unsigned weight bytes with 64 signed activation bytes and
// adds fours of them into 16 lanes, one output feature each. The weight is the register operand,
// four activations of one token the broadcast one.
#include "kernels/cpu/linear_kernels.h"

#if defined(__AVX512VNNI__)

#include <immintrin.h>

namespace nibble::cpu {
namespace {

using UnalignedInt = int32_t __attribute__((may_alias, aligned(1)));
using UnalignedFloat = float __attribute__((may_alias, aligned(1)));

__m512i BroadcastInt(const uint8_t* p) {
  return _mm512_set1_epi32(*reinterpret_cast<const UnalignedInt*>(p));
}
__m512 BroadcastFloat(const uint8_t* p) {
  return _mm512_set1_ps(*reinterpret_cast<const UnalignedFloat*>(p));
}

// Far enough for DRAM latency at the speed one core streams, near enough to stay in the L1 cache.
constexpr int kPrefetchBytes = 4096;

// --- quantizing

void StoreInt(uint8_t* p, int32_t value) { *reinterpret_cast<UnalignedInt*>(p) = value; }
void StoreFloat(uint8_t* p, float value) { *reinterpret_cast<UnalignedFloat*>(p) = value; }

void StoreSums(int32_t total, float scale, uint8_t* minus_sum, uint8_t* sum) {
  StoreInt(minus_sum, -total);
  StoreFloat(sum, scale * static_cast<float>(total));
}

void QuantizeGroup(const float* x, TileLayout layout, int32_t token, uint8_t* group) {
  const __m512 lo = _mm512_loadu_ps(x);
  const __m512 hi = _mm512_loadu_ps(x + 16);
  // The magnitudes of floats order like their bits, and so do infinity and NaN above them.
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  const __m512i largest_bits =
      _mm512_max_epu32(_mm512_and_epi32(_mm512_castps_si512(lo), magnitude),
                       _mm512_and_epi32(_mm512_castps_si512(hi), magnitude));
  const uint32_t bits = _mm512_reduce_max_epu32(largest_bits);
  const float largest = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits))));
  float scale = largest / 127.0f;
  float inverse = 127.0f / largest;
  if (bits >= 0x7F800000u) {
    scale = __builtin_nanf("");
    inverse = 0;
  } else if (largest < kSmallestScaled) {
    scale = 0;
    inverse = 0;
  }
  const __mmask16 keep = inverse != 0 ? 0xFFFF : 0;
  const __m512 factor = _mm512_set1_ps(inverse);
  const __m512i lo_codes = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(lo, factor));
  const __m512i hi_codes = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(hi, factor));
  uint8_t* codes = group + token * kGroup;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(lo_codes));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(hi_codes));
  StoreFloat(group + layout.scale_at() + 4 * token, scale);
  StoreSums(_mm512_reduce_add_epi32(_mm512_add_epi32(lo_codes, hi_codes)), scale,
            group + layout.minus_sum_at() + 4 * token, group + layout.sum_at() + 4 * token);
  if (!layout.halves) return;
  StoreSums(_mm512_reduce_add_epi32(lo_codes), scale,
            group + layout.half_minus_sum_at(0) + 4 * token,
            group + layout.half_sum_at(0) + 4 * token);
  StoreSums(_mm512_reduce_add_epi32(hi_codes), scale,
            group + layout.half_minus_sum_at(1) + 4 * token,
            group + layout.half_sum_at(1) + 4 * token);
}

void QuantizeRow(const float* x, int32_t cols, TileLayout layout, int32_t token, uint8_t* tile) {
  for (int32_t g = 0; g < cols / kGroup; ++g) {
    QuantizeGroup(x + g * kGroup, layout, token, tile + g * layout.group_bytes());
  }
}

// --- storing

void StoreRow(__m512 value, int32_t token, const OutputTile& out, __mmask16 rows) {
  float* y = out.y + token * out.stride;
  if (out.bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(rows, out.bias));
  if (out.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), value);
  _mm512_mask_storeu_ps(y, rows, value);
}

__mmask16 RowMask(const OutputTile& out) {
  return static_cast<__mmask16>((1u << out.num_rows) - 1);
}

void StoreTile(const float* sums, int32_t tokens, const OutputTile& out) {
  for (int32_t t = 0; t < tokens; ++t) {
    StoreRow(_mm512_loadu_ps(sums + t * kBlockRows), t, out, RowMask(out));
  }
}

// --- integer tiles

// Reads the 16 scales of a group, and its 16 offsets, one group after the other.
struct ScaleReader {
  const uint8_t* at;
  bool is_f16;

  __m512 Next() {
    if (is_f16) {
      const __m256i half = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
      at += 32;
      return _mm512_cvtph_ps(half);
    }
    const __m512 full = _mm512_load_ps(at);
    at += 64;
    return full;
  }
};

// Eight vectors of weight bytes against the 32 codes of a token. Two chains where too few tokens
// are there to hide the latency of one: integer sums do not care.
template <int T>
__m512i Dot32(__m512i sum, const __m512i (&w)[8], const uint8_t* codes) {
  if constexpr (T <= 2) {
    __m512i other = _mm512_setzero_si512();
    for (int j = 0; j < 8; j += 2) {
      sum = _mm512_dpbusd_epi32(sum, w[j], BroadcastInt(codes + 4 * j));
      other = _mm512_dpbusd_epi32(other, w[j + 1], BroadcastInt(codes + 4 * j + 4));
    }
    return _mm512_add_epi32(sum, other);
  } else {
    for (int j = 0; j < 8; ++j) sum = _mm512_dpbusd_epi32(sum, w[j], BroadcastInt(codes + 4 * j));
    return sum;
  }
}

template <int T>
void Prefetch(const uint8_t* codes, int bytes) {
  if constexpr (T <= 4) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(codes + kPrefetchBytes + i, 0, 3);
  }
}

struct Int4Chunk {
  static constexpr int kBytes = 256;
  static void Load(const uint8_t* codes, __m512i (&w)[8]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m512i both = _mm512_load_si512(codes + 64 * j);
      w[j] = _mm512_and_si512(both, nibble);
      w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    }
  }
};

struct Int8Chunk {
  static constexpr int kBytes = 512;
  static void Load(const uint8_t* codes, __m512i (&w)[8]) {
    for (int j = 0; j < 8; ++j) w[j] = _mm512_load_si512(codes + 64 * j);
  }
};

// Groups that are a multiple of 32. kZeroShift: log2 of the zero point, 0 for none.
template <typename Chunk, int T, bool kOffsets, int kZeroShift>
void GroupTile(const WeightBlock& weight, const uint8_t* tile, TileLayout layout,
               const OutputTile& out) {
  constexpr TileLayout kLayout{.tokens = T};
  const int32_t chunks_per_scale = weight.group / kGroup;
  const int32_t group_bytes = layout.group_bytes();
  const uint8_t* codes = weight.codes;
  ScaleReader reader{weight.scales, weight.scales_are_f16};
  __m512 sums[T];
  for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
  for (int32_t k = 0; k < weight.cols; k += weight.group) {
    const __m512 scale = reader.Next();
    const __m512 offset = kOffsets ? reader.Next() : _mm512_setzero_ps();
    for (int32_t c = 0; c < chunks_per_scale; ++c) {
      __m512i w[8];
      Prefetch<T>(codes, Chunk::kBytes);
      Chunk::Load(codes, w);
      for (int t = 0; t < T; ++t) {
        __m512i dot = _mm512_setzero_si512();
        if constexpr (kZeroShift != 0) {
          dot = _mm512_slli_epi32(BroadcastInt(tile + kLayout.minus_sum_at() + 4 * t), kZeroShift);
        }
        dot = Dot32<T>(dot, w, tile + t * kGroup);
        const __m512 both_scales =
            _mm512_mul_ps(scale, BroadcastFloat(tile + kLayout.scale_at() + 4 * t));
        sums[t] = _mm512_fmadd_ps(both_scales, _mm512_cvtepi32_ps(dot), sums[t]);
        if constexpr (kOffsets) {
          sums[t] =
              _mm512_fmadd_ps(offset, BroadcastFloat(tile + kLayout.sum_at() + 4 * t), sums[t]);
        }
      }
      codes += Chunk::kBytes;
      tile += group_bytes;
    }
  }
  for (int t = 0; t < T; ++t) StoreRow(sums[t], t, out, RowMask(out));
}

// int8 with a scale every 16 columns: as above, a half at a time.
template <int T, bool kOffsets>
void HalfGroupTile(const WeightBlock& weight, const uint8_t* tile, TileLayout,
                   const OutputTile& out) {
  constexpr TileLayout kLayout{.tokens = T, .halves = true};
  const uint8_t* codes = weight.codes;
  ScaleReader reader{weight.scales, weight.scales_are_f16};
  __m512 sums[T];
  for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
  for (int32_t k = 0; k < weight.cols; k += 16) {
    const int half = k / 16 % 2;
    const __m512 scale = reader.Next();
    const __m512 offset = kOffsets ? reader.Next() : _mm512_setzero_ps();
    Prefetch<T>(codes, 256);
    for (int t = 0; t < T; ++t) {
      const uint8_t* x = tile + t * kGroup + 16 * half;
      __m512i dot =
          _mm512_slli_epi32(BroadcastInt(tile + kLayout.half_minus_sum_at(half) + 4 * t), 7);
      for (int j = 0; j < 4; ++j) {
        dot = _mm512_dpbusd_epi32(dot, _mm512_load_si512(codes + 64 * j), BroadcastInt(x + 4 * j));
      }
      const __m512 both_scales =
          _mm512_mul_ps(scale, BroadcastFloat(tile + kLayout.scale_at() + 4 * t));
      sums[t] = _mm512_fmadd_ps(both_scales, _mm512_cvtepi32_ps(dot), sums[t]);
      if constexpr (kOffsets) {
        const __m512 x_sum = BroadcastFloat(tile + kLayout.half_sum_at(half) + 4 * t);
        sums[t] = _mm512_fmadd_ps(offset, x_sum, sums[t]);
      }
    }
    codes += 256;
    tile += half * kLayout.group_bytes();
  }
  for (int t = 0; t < T; ++t) StoreRow(sums[t], t, out, RowMask(out));
}

template <int T>
void IntTileOf(const WeightBlock& weight, const uint8_t* tile, TileLayout layout,
               const OutputTile& out) {
  if (weight.storage == Storage::kInt4) {
    if (weight.has_offsets) return GroupTile<Int4Chunk, T, true, 0>(weight, tile, layout, out);
    if (weight.zero_point == 8) return GroupTile<Int4Chunk, T, false, 3>(weight, tile, layout, out);
    return GroupTile<Int4Chunk, T, false, 0>(weight, tile, layout, out);
  }
  if (weight.group < kGroup) {
    if (weight.has_offsets) return HalfGroupTile<T, true>(weight, tile, layout, out);
    return HalfGroupTile<T, false>(weight, tile, layout, out);
  }
  if (weight.has_offsets) return GroupTile<Int8Chunk, T, true, 7>(weight, tile, layout, out);
  return GroupTile<Int8Chunk, T, false, 7>(weight, tile, layout, out);
}

using IntTileFunction = void (*)(const WeightBlock&, const uint8_t*, TileLayout, const OutputTile&);
constexpr IntTileFunction kIntTiles[kTileTokens] = {IntTileOf<1>, IntTileOf<2>, IntTileOf<3>,
                                                    IntTileOf<4>, IntTileOf<5>, IntTileOf<6>,
                                                    IntTileOf<7>, IntTileOf<8>};

void IntTile(const WeightBlock& weight, const uint8_t* tile, TileLayout layout,
             const OutputTile& out) {
  kIntTiles[layout.tokens - 1](weight, tile, layout, out);
}

// --- f32 activations

// Four columns from a vector whose byte 4 * row + i is the code of column i.
void DequantizeFour(__m512i codes, __m512i zero_point, __m512 scale, __m512 offset,
                    bool has_offsets, float* panel) {
  for (int i = 0; i < 4; ++i) {
    const __m512i code =
        _mm512_and_si512(_mm512_srl_epi32(codes, _mm_cvtsi32_si128(8 * i)), _mm512_set1_epi32(255));
    __m512 value = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(code, zero_point)));
    if (has_offsets) value = _mm512_add_ps(value, offset);
    _mm512_store_ps(panel + i * kBlockRows, value);
  }
}

template <typename Chunk>
void DequantizeInts(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel) {
  const int64_t scale_bytes =
      kBlockRows * (weight.has_offsets ? 2 : 1) * (weight.scales_are_f16 ? 2 : 4);
  const __m512i zero_point = _mm512_set1_epi32(weight.zero_point);
  for (int32_t k = k0; k < k1; k += kGroup) {
    __m512i w[8];
    Chunk::Load(weight.codes + k / kGroup * Chunk::kBytes, w);
    for (int half = 0; half < 2; ++half) {
      ScaleReader reader{weight.scales + (k + 16 * half) / weight.group * scale_bytes,
                         weight.scales_are_f16};
      const __m512 scale = reader.Next();
      const __m512 offset = weight.has_offsets ? reader.Next() : _mm512_setzero_ps();
      for (int j = 4 * half; j < 4 * half + 4; ++j) {
        DequantizeFour(w[j], zero_point, scale, offset, weight.has_offsets,
                       panel + (k - k0 + 4 * j) * kBlockRows);
      }
    }
  }
}

void DequantizePanel(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel) {
  if (weight.storage == Storage::kInt4) return DequantizeInts<Int4Chunk>(weight, k0, k1, panel);
  if (weight.storage == Storage::kInt8) return DequantizeInts<Int8Chunk>(weight, k0, k1, panel);
  for (int32_t k = k0; k < k1; ++k, panel += kBlockRows) {
    if (weight.storage == Storage::kF32) {
      _mm512_store_ps(panel, _mm512_load_ps(weight.codes + 64 * static_cast<int64_t>(k)));
      continue;
    }
    const __m256i bits = _mm256_load_si256(
        reinterpret_cast<const __m256i*>(weight.codes + 32 * static_cast<int64_t>(k)));
    _mm512_store_si512(panel, _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
}

template <int T>
void PanelTileOf(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
                 float* sums) {
  __m512 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm512_loadu_ps(sums + t * kBlockRows);
  for (int32_t k = 0; k < num_cols; ++k) {
    const __m512 w = _mm512_load_ps(panel + k * kBlockRows);
    for (int t = 0; t < T; ++t) {
      acc[t] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[t * x_stride + k]), acc[t]);
    }
  }
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(sums + t * kBlockRows, acc[t]);
}

using PanelTileFunction = void (*)(const float*, int32_t, const float*, int64_t, float*);
constexpr PanelTileFunction kPanelTiles[kTileTokens] = {
    PanelTileOf<1>, PanelTileOf<2>, PanelTileOf<3>, PanelTileOf<4>,
    PanelTileOf<5>, PanelTileOf<6>, PanelTileOf<7>, PanelTileOf<8>};

void PanelTile(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
               int32_t tokens, float* sums) {
  kPanelTiles[tokens - 1](panel, num_cols, x, x_stride, sums);
}

}  // namespace

const LinearKernels kAvx512Linear = {.quantize_row = QuantizeRow,
                                     .int_tile = IntTile,
                                     .dequantize_panel = DequantizePanel,
                                     .panel_tile = PanelTile,
                                     .store_tile = StoreTile};

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kAvx512Linear = {};
}  // namespace nibble::cpu

#endif

// AVX2 with FMA: the same steps as linear_avx512.cc, half a row block (8 output features) and up to
// 4 tokens at a time, which is what 16 registers hold. Unsigned bytes times signed bytes go through
// VPMADDUBSW (pairs, 16 bits) and VPMADDWD (fours, 32 bits). f32 steps have the order and the
// fusing of AVX-512, so both give the same bits.
#include "kernels/cpu/linear_kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

namespace nibble::cpu {
namespace {

constexpr int kHalfRows = 8;  // output features of a register
constexpr int kStripTokens =
    4;  // 4 f32 and 4 integer sums, weights, masks and a broadcast fill 16 registers

using UnalignedInt = int32_t __attribute__((may_alias, aligned(1)));
using UnalignedFloat = float __attribute__((may_alias, aligned(1)));

__m256i BroadcastInt(const uint8_t* p) {
  return _mm256_set1_epi32(*reinterpret_cast<const UnalignedInt*>(p));
}
__m256 BroadcastFloat(const uint8_t* p) {
  return _mm256_set1_ps(*reinterpret_cast<const UnalignedFloat*>(p));
}
__m256i LoadBytes(const uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}

// --- quantizing

int32_t SumOf(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
  return _mm_cvtsi128_si32(sum);
}

uint32_t MaxOf(__m256i v) {
  __m128i max = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0x4E));
  max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0xB1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(max));
}

void StoreInt(uint8_t* p, int32_t value) { *reinterpret_cast<UnalignedInt*>(p) = value; }
void StoreFloat(uint8_t* p, float value) { *reinterpret_cast<UnalignedFloat*>(p) = value; }

void StoreSums(int32_t total, float scale, uint8_t* minus_sum, uint8_t* sum) {
  StoreInt(minus_sum, -total);
  StoreFloat(sum, scale * static_cast<float>(total));
}

void QuantizeGroup(const float* x, TileLayout layout, int32_t token, uint8_t* group) {
  // The magnitudes of floats order like their bits, and so do infinity and NaN above them.
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i largest_bits = _mm256_setzero_si256();
  for (int i = 0; i < kGroup; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
    largest_bits = _mm256_max_epu32(largest_bits, _mm256_and_si256(bits, magnitude));
  }
  const uint32_t bits = MaxOf(largest_bits);
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
  const __m256i keep = _mm256_set1_epi32(inverse != 0 ? -1 : 0);
  const __m256 factor = _mm256_set1_ps(inverse);
  __m256i codes[4];
  for (int i = 0; i < 4; ++i) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor);
    codes[i] = _mm256_and_si256(_mm256_cvtps_epi32(scaled), keep);
  }
  // Packing works in 128-bit lanes; the permutation puts the fours of codes back in order.
  const __m256i words_lo = _mm256_packs_epi32(codes[0], codes[1]);
  const __m256i words_hi = _mm256_packs_epi32(codes[2], codes[3]);
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words_lo, words_hi),
                                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(group + token * kGroup), bytes);
  StoreFloat(group + layout.scale_at() + 4 * token, scale);
  const int32_t lo = SumOf(_mm256_add_epi32(codes[0], codes[1]));
  const int32_t hi = SumOf(_mm256_add_epi32(codes[2], codes[3]));
  StoreSums(lo + hi, scale, group + layout.minus_sum_at() + 4 * token,
            group + layout.sum_at() + 4 * token);
  if (!layout.halves) return;
  StoreSums(lo, scale, group + layout.half_minus_sum_at(0) + 4 * token,
            group + layout.half_sum_at(0) + 4 * token);
  StoreSums(hi, scale, group + layout.half_minus_sum_at(1) + 4 * token,
            group + layout.half_sum_at(1) + 4 * token);
}

void QuantizeRow(const float* x, int32_t cols, TileLayout layout, int32_t token, uint8_t* tile) {
  for (int32_t g = 0; g < cols / kGroup; ++g) {
    QuantizeGroup(x + g * kGroup, layout, token, tile + g * layout.group_bytes());
  }
}

// --- storing

// Features row0 .. row0 + 7 of a token, those below num_rows.
void StoreRow(__m256 value, int32_t token, int row0, const OutputTile& out) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i rows = _mm256_cmpgt_epi32(_mm256_set1_epi32(out.num_rows - row0), lane);
  float* y = out.y + token * out.stride + row0;
  if (out.bias != nullptr) value = _mm256_add_ps(value, _mm256_maskload_ps(out.bias + row0, rows));
  if (out.accumulate) value = _mm256_add_ps(_mm256_maskload_ps(y, rows), value);
  _mm256_maskstore_ps(y, rows, value);
}

void StoreTile(const float* sums, int32_t tokens, const OutputTile& out) {
  for (int32_t t = 0; t < tokens; ++t) {
    for (int row0 = 0; row0 < kBlockRows; row0 += kHalfRows) {
      StoreRow(_mm256_loadu_ps(sums + t * kBlockRows + row0), t, row0, out);
    }
  }
}

// --- integer tiles

// Reads 8 of the 16 scales of a group, and 8 of its 16 offsets, one group after the other.
struct ScaleReader {
  const uint8_t* at;
  bool is_f16;

  ScaleReader(const WeightBlock& weight, int64_t first, int row0)
      : at(weight.scales + (first + row0) * (weight.scales_are_f16 ? 2 : 4)),
        is_f16(weight.scales_are_f16) {}

  __m256 Next() {
    const uint8_t* p = at;
    at += kBlockRows * (is_f16 ? 2 : 4);
    if (!is_f16) return _mm256_load_ps(reinterpret_cast<const float*>(p));
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

// Neighbouring 16-bit sums, widened and added: a lane is then an output feature.
__m256i AddPairs(__m256i words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

// 32 columns of 8 int4 rows against T tokens. A pair of products is at most 2 * 15 * 127, so eight
// of them can wait in 16 bits before they are widened.
template <int T>
void DotInt4(const uint8_t* codes, const uint8_t* x, __m256i (&dots)[T]) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i words[T];
  for (int t = 0; t < T; ++t) words[t] = _mm256_setzero_si256();
  for (int j = 0; j < 4; ++j) {
    const __m256i both = LoadBytes(codes + 64 * j);
    const __m256i lo = _mm256_and_si256(both, nibble);
    const __m256i hi = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
    for (int t = 0; t < T; ++t) {
      const uint8_t* at = x + t * kGroup + 4 * j;
      words[t] = _mm256_add_epi16(words[t], _mm256_maddubs_epi16(lo, BroadcastInt(at)));
      words[t] = _mm256_add_epi16(words[t], _mm256_maddubs_epi16(hi, BroadcastInt(at + 16)));
    }
  }
  for (int t = 0; t < T; ++t) dots[t] = AddPairs(words[t]);
}

// `count` vectors of 8 int8 rows. |w| is the unsigned operand and takes w's sign from the
// activation: a pair of products is at most 2 * 128 * 127, which 16 bits just hold. The zero point
// of 128 is undone on the way.
template <int T>
void DotInt8(const uint8_t* codes, const uint8_t* x, int count, __m256i (&dots)[T]) {
  for (int t = 0; t < T; ++t) dots[t] = _mm256_setzero_si256();
  for (int j = 0; j < count; ++j) {
    const __m256i w = _mm256_xor_si256(LoadBytes(codes + 64 * j), _mm256_set1_epi8(-128));
    const __m256i size = _mm256_abs_epi8(w);
    for (int t = 0; t < T; ++t) {
      const __m256i signed_x = _mm256_sign_epi8(BroadcastInt(x + t * kGroup + 4 * j), w);
      dots[t] = _mm256_add_epi32(dots[t], AddPairs(_mm256_maddubs_epi16(size, signed_x)));
    }
  }
}

template <int T>
void AddGroup(__m256 scale, const __m256i (&dots)[T], const uint8_t* x_scales, __m256 (&sums)[T]) {
  for (int t = 0; t < T; ++t) {
    const __m256 both_scales = _mm256_mul_ps(scale, BroadcastFloat(x_scales + 4 * t));
    sums[t] = _mm256_fmadd_ps(both_scales, _mm256_cvtepi32_ps(dots[t]), sums[t]);
  }
}

template <int T>
void AddOffset(__m256 offset, const uint8_t* x_sums, __m256 (&sums)[T]) {
  for (int t = 0; t < T; ++t) {
    sums[t] = _mm256_fmadd_ps(offset, BroadcastFloat(x_sums + 4 * t), sums[t]);
  }
}

// A strip: 8 features row0 .. row0 + 7 times tokens first .. first + T - 1 of the tile.
template <int T>
void Int4Strip(const WeightBlock& weight, const uint8_t* tile, TileLayout layout, int first,
               int row0, const OutputTile& out) {
  const uint8_t* codes = weight.codes + 4 * row0;
  ScaleReader reader(weight, 0, row0);
  __m256 sums[T];
  for (int t = 0; t < T; ++t) sums[t] = _mm256_setzero_ps();
  for (int32_t k = 0; k < weight.cols; k += weight.group) {
    const __m256 scale = reader.Next();
    const __m256 offset = weight.has_offsets ? reader.Next() : _mm256_setzero_ps();
    for (int32_t c = 0; c < weight.group; c += kGroup) {
      __m256i dots[T];
      DotInt4(codes, tile + first * kGroup, dots);
      for (int t = 0; t < T && weight.zero_point != 0; ++t) {
        const __m256i minus_sum = BroadcastInt(tile + layout.minus_sum_at() + 4 * (first + t));
        dots[t] = _mm256_add_epi32(dots[t], _mm256_slli_epi32(minus_sum, 3));
      }
      AddGroup(scale, dots, tile + layout.scale_at() + 4 * first, sums);
      if (weight.has_offsets) AddOffset(offset, tile + layout.sum_at() + 4 * first, sums);
      codes += 256;
      tile += layout.group_bytes();
    }
  }
  for (int t = 0; t < T; ++t) StoreRow(sums[t], first + t, row0, out);
}

template <int T>
void Int8Strip(const WeightBlock& weight, const uint8_t* tile, TileLayout layout, int first,
               int row0, const OutputTile& out) {
  const int32_t segment = weight.group < kGroup ? weight.group : kGroup;
  const uint8_t* codes = weight.codes + 4 * row0;
  ScaleReader reader(weight, 0, row0);
  __m256 sums[T];
  for (int t = 0; t < T; ++t) sums[t] = _mm256_setzero_ps();
  for (int32_t k = 0; k < weight.cols; k += weight.group) {
    const __m256 scale = reader.Next();
    const __m256 offset = weight.has_offsets ? reader.Next() : _mm256_setzero_ps();
    for (int32_t c = k; c < k + weight.group; c += segment) {
      const uint8_t* group = tile + c / kGroup * layout.group_bytes();
      const int half = c % kGroup / 16;
      __m256i dots[T];
      DotInt8(codes, group + first * kGroup + 16 * half, segment / 4, dots);
      AddGroup(scale, dots, group + layout.scale_at() + 4 * first, sums);
      if (weight.has_offsets) {
        const int32_t sum_at = segment < kGroup ? layout.half_sum_at(half) : layout.sum_at();
        AddOffset(offset, group + sum_at + 4 * first, sums);
      }
      codes += segment * kBlockRows;
    }
  }
  for (int t = 0; t < T; ++t) StoreRow(sums[t], first + t, row0, out);
}

template <int T>
void StripOf(const WeightBlock& weight, const uint8_t* tile, TileLayout layout, int first, int row0,
             const OutputTile& out) {
  if (weight.storage == Storage::kInt4) {
    Int4Strip<T>(weight, tile, layout, first, row0, out);
  } else {
    Int8Strip<T>(weight, tile, layout, first, row0, out);
  }
}

using StripFunction = void (*)(const WeightBlock&, const uint8_t*, TileLayout, int, int,
                               const OutputTile&);
constexpr StripFunction kStrips[kStripTokens] = {StripOf<1>, StripOf<2>, StripOf<3>, StripOf<4>};

int StripAt(int first, int tokens) {
  return tokens - first < kStripTokens ? tokens - first : kStripTokens;
}

void IntTile(const WeightBlock& weight, const uint8_t* tile, TileLayout layout,
             const OutputTile& out) {
  for (int first = 0; first < layout.tokens; first += kStripTokens) {
    for (int row0 = 0; row0 < out.num_rows; row0 += kHalfRows) {
      kStrips[StripAt(first, layout.tokens) - 1](weight, tile, layout, first, row0, out);
    }
  }
}

// --- f32 activations

// Four columns of 8 rows from a vector whose byte 4 * row + i is the code of column i.
void DequantizeFour(__m256i codes, const WeightBlock& weight, __m256 scale, __m256 offset,
                    float* panel) {
  const __m256i zero_point = _mm256_set1_epi32(weight.zero_point);
  for (int i = 0; i < 4; ++i) {
    const __m256i code =
        _mm256_and_si256(_mm256_srl_epi32(codes, _mm_cvtsi32_si128(8 * i)), _mm256_set1_epi32(255));
    __m256 value = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero_point)));
    if (weight.has_offsets) value = _mm256_add_ps(value, offset);
    _mm256_store_ps(panel + i * kBlockRows, value);
  }
}

// Vector j of 32 columns, one byte a code.
__m256i CodesOf(const WeightBlock& weight, int32_t k, int j, int row0) {
  if (weight.storage == Storage::kInt8) {
    return LoadBytes(weight.codes + k * kBlockRows + 64 * j + 4 * row0);
  }
  const __m256i both = LoadBytes(weight.codes + k * kBlockRows / 2 + 64 * (j % 4) + 4 * row0);
  return _mm256_and_si256(j < 4 ? both : _mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
}

void DequantizeInts(const WeightBlock& weight, int32_t k0, int32_t k1, int row0, float* panel) {
  const int64_t scales_a_group = kBlockRows * (weight.has_offsets ? 2 : 1);
  for (int32_t k = k0; k < k1; k += kGroup) {
    for (int half = 0; half < 2; ++half) {
      ScaleReader reader(weight, (k + 16 * half) / weight.group * scales_a_group, row0);
      const __m256 scale = reader.Next();
      const __m256 offset = weight.has_offsets ? reader.Next() : _mm256_setzero_ps();
      for (int j = 4 * half; j < 4 * half + 4; ++j) {
        DequantizeFour(CodesOf(weight, k, j, row0), weight, scale, offset,
                       panel + (k - k0 + 4 * j) * kBlockRows + row0);
      }
    }
  }
}

void DequantizePanel(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel) {
  for (int row0 = 0; row0 < kBlockRows; row0 += kHalfRows) {
    if (weight.storage == Storage::kInt4 || weight.storage == Storage::kInt8) {
      DequantizeInts(weight, k0, k1, row0, panel);
      continue;
    }
    for (int32_t k = k0; k < k1; ++k) {
      const int64_t element = static_cast<int64_t>(k) * kBlockRows + row0;
      float* to = panel + (k - k0) * kBlockRows + row0;
      if (weight.storage == Storage::kF32) {
        _mm256_store_ps(to, _mm256_load_ps(reinterpret_cast<const float*>(weight.codes) + element));
        continue;
      }
      const __m128i bits =
          _mm_load_si128(reinterpret_cast<const __m128i*>(weight.codes + 2 * element));
      _mm256_store_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
    }
  }
}

template <int T>
void PanelStrip(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
                float* sums) {
  __m256 lo[T], hi[T];
  for (int t = 0; t < T; ++t) {
    lo[t] = _mm256_loadu_ps(sums + t * kBlockRows);
    hi[t] = _mm256_loadu_ps(sums + t * kBlockRows + kHalfRows);
  }
  for (int32_t k = 0; k < num_cols; ++k) {
    const __m256 w_lo = _mm256_load_ps(panel + k * kBlockRows);
    const __m256 w_hi = _mm256_load_ps(panel + k * kBlockRows + kHalfRows);
    for (int t = 0; t < T; ++t) {
      const __m256 value = _mm256_set1_ps(x[t * x_stride + k]);
      lo[t] = _mm256_fmadd_ps(w_lo, value, lo[t]);
      hi[t] = _mm256_fmadd_ps(w_hi, value, hi[t]);
    }
  }
  for (int t = 0; t < T; ++t) {
    _mm256_storeu_ps(sums + t * kBlockRows, lo[t]);
    _mm256_storeu_ps(sums + t * kBlockRows + kHalfRows, hi[t]);
  }
}

using PanelFunction = void (*)(const float*, int32_t, const float*, int64_t, float*);
constexpr PanelFunction kPanels[kStripTokens] = {PanelStrip<1>, PanelStrip<2>, PanelStrip<3>,
                                                 PanelStrip<4>};

void PanelTile(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
               int32_t tokens, float* sums) {
  for (int first = 0; first < tokens; first += kStripTokens) {
    kPanels[StripAt(first, tokens) - 1](panel, num_cols, x + first * x_stride, x_stride,
                                        sums + first * kBlockRows);
  }
}

}  // namespace

const LinearKernels kAvx2Linear = {.quantize_row = QuantizeRow,
                                   .int_tile = IntTile,
                                   .dequantize_panel = DequantizePanel,
                                   .panel_tile = PanelTile,
                                   .store_tile = StoreTile};

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const LinearKernels kAvx2Linear = {};
}  // namespace nibble::cpu

#endif

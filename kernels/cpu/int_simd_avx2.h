// The policy of linear_tiles_inl.h for AVX2 with FMA and F16C: eight output features a register,
// strips of 4 tokens, which is what 16 registers hold. Members as in int_simd_avx512.h. Unsigned
// bytes times signed bytes go through VPMADDUBSW (pairs, 16 bits) and VPMADDWD (fours, 32 bits).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nibble::cpu {
namespace {

struct Avx2Ints {
  static constexpr int kLanes = 8;
  static constexpr int kStripTokens = 4;
  static constexpr bool kSignedBytes = true;
  using Ints = __m256i;
  using Floats = __m256;
  using UnalignedInt = int32_t __attribute__((may_alias, aligned(1)));
  using UnalignedFloat = float __attribute__((may_alias, aligned(1)));

  static Ints ZeroInts() { return _mm256_setzero_si256(); }
  static Ints SetInt(int32_t x) { return _mm256_set1_epi32(x); }
  static Ints BroadcastInt(const uint8_t* p) {
    return _mm256_set1_epi32(*reinterpret_cast<const UnalignedInt*>(p));
  }
  static Ints LoadBytes(const uint8_t* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Ints LowNibbles(Ints x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
  static Ints HighNibbles(Ints x) { return LowNibbles(_mm256_srli_epi16(x, 4)); }
  static Ints ByteOf(Ints x, int i) {
    return _mm256_and_si256(_mm256_srl_epi32(x, _mm_cvtsi32_si128(8 * i)), _mm256_set1_epi32(255));
  }
  static Ints And(Ints a, Ints b) { return _mm256_and_si256(a, b); }
  static Ints Or(Ints a, Ints b) { return _mm256_or_si256(a, b); }
  static void StoreBytes(uint8_t* p, Ints x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static Ints WidenU8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints WidenS8(const uint8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints WidenU16(const uint8_t* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints RepeatBytes16(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints Lookup(Ints table, Ints indexes) { return _mm256_shuffle_epi8(table, indexes); }
  static Ints AddInts(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static Ints SubInts(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
  template <int kBits>
  static Ints ShiftLeft(Ints x) {
    return _mm256_slli_epi32(x, kBits);
  }
  template <int kBits>
  static Ints ShiftRight(Ints x) {
    return _mm256_srli_epi32(x, kBits);
  }
  static Floats AsFloats(Ints x) { return _mm256_castsi256_ps(x); }
  // Neighbouring 16-bit sums, widened and added: a lane is then an output feature.
  static Ints AddPairs(Ints words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }

  static Ints JoinWords(Ints first, Ints second) {
    return _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xAA);
  }
  static Ints MulHighWords(Ints a, Ints b) { return _mm256_mulhrs_epi16(a, b); }
  static Ints MulWordPairs(Ints a, Ints b) { return _mm256_madd_epi16(a, b); }
  static Ints AddWordPairs(Ints sum, Ints a, const uint8_t* b) {
    return AddInts(sum, MulWordPairs(a, BroadcastInt(b)));
  }

  // Codes of up to 127: a pair of products is at most 2 * 127 * 127. Eight-bit codes: |w| is the
  // unsigned operand and takes w's sign from the activation, at most 2 * 128 * 127, which 16 bits
  // just hold; the zero point of 128 is undone on the way.
  template <int kLimit>
  struct Dot {
    using Sum = Ints;
    static Sum Begin(Ints init) { return init; }
    static Sum Zero() { return ZeroInts(); }
    static Sum Add(Sum sum, Ints codes, const uint8_t* x) {
      if constexpr (kLimit <= 127) {
        return AddInts(sum, AddPairs(_mm256_maddubs_epi16(codes, BroadcastInt(x))));
      }
      const Ints w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
      const Ints signed_x = _mm256_sign_epi8(BroadcastInt(x), w);
      return AddInts(sum, AddPairs(_mm256_maddubs_epi16(_mm256_abs_epi8(w), signed_x)));
    }
    static Ints End(Sum sum, Ints) { return sum; }
  };

  static Floats ZeroFloats() { return _mm256_setzero_ps(); }
  static Floats SetFloat(float x) { return _mm256_set1_ps(x); }
  static Floats BroadcastFloat(const uint8_t* p) {
    return _mm256_set1_ps(*reinterpret_cast<const UnalignedFloat*>(p));
  }
  static Floats LoadFloats(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
  static Floats LoadF16(const uint8_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Floats LoadBf16(const uint8_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Floats LoadE4m3(const uint8_t* p) {
    const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(-0x4001)));
  }
  static Floats LoadE5m2(const uint8_t* p) {
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
  }
  struct Table16 {
    Floats low, high;
  };
  static Table16 LoadTable16(const float* p) { return {LoadFloats(p), LoadFloats(p + 8)}; }
  static Floats Lookup16(Table16 table, Ints indexes) {  // bit 3 selects the half
    const Floats low = _mm256_permutevar8x32_ps(table.low, indexes);
    const Floats high = _mm256_permutevar8x32_ps(table.high, indexes);
    return _mm256_blendv_ps(low, high, AsFloats(_mm256_slli_epi32(indexes, 28)));
  }
  static void StoreFloats(float* p, Floats x) { _mm256_storeu_ps(p, x); }
  static Floats ToFloats(Ints x) { return _mm256_cvtepi32_ps(x); }
  static Floats Add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats Mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats Fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

  static void StoreRow(Floats value, float* y, const float* bias, int num_rows, bool accumulate) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i rows = _mm256_cmpgt_epi32(_mm256_set1_epi32(num_rows), lane);
    if (bias != nullptr) value = _mm256_add_ps(value, _mm256_maskload_ps(bias, rows));
    if (accumulate) value = _mm256_add_ps(_mm256_maskload_ps(y, rows), value);
    _mm256_maskstore_ps(y, rows, value);
  }

  static uint32_t MaxMagnitude32(const float* x) {
    const Ints magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    Ints largest = ZeroInts();
    for (int i = 0; i < 32; i += 8) {
      const Ints bits = _mm256_castps_si256(_mm256_loadu_ps(x + i));
      largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, magnitude));
    }
    __m128i max =
        _mm_max_epu32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0x4E));
    max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0xB1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(max));
  }
  static int32_t SumOf(Ints v) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
    return _mm_cvtsi128_si32(sum);
  }
  static void Quantize32(const float* x, float inverse, uint8_t* codes, int32_t (&sum)[2]) {
    const Ints keep = _mm256_set1_epi32(inverse != 0 ? -1 : 0);
    const Floats factor = _mm256_set1_ps(inverse);
    Ints ints[4];
    for (int i = 0; i < 4; ++i) {
      const Floats scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor);
      ints[i] = _mm256_and_si256(_mm256_cvtps_epi32(scaled), keep);
    }
    // Packing works in 128-bit lanes; the permutation puts the fours of codes back in order.
    const Ints words_lo = _mm256_packs_epi32(ints[0], ints[1]);
    const Ints words_hi = _mm256_packs_epi32(ints[2], ints[3]);
    const Ints bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words_lo, words_hi),
                                                   _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), bytes);
    for (int h = 0; h < 2; ++h) sum[h] = SumOf(AddInts(ints[2 * h], ints[2 * h + 1]));
  }
};

// Nibbles: a pair of products is at most 2 * 15 * 127, so the eight of a chunk can wait in 16 bits
// before they are widened.
template <>
struct Avx2Ints::Dot<15> {
  using Sum = Ints;
  static Sum Begin(Ints) { return ZeroInts(); }
  static Sum Zero() { return ZeroInts(); }
  static Sum Add(Sum words, Ints w, const uint8_t* x) {
    return _mm256_add_epi16(words, _mm256_maddubs_epi16(w, BroadcastInt(x)));
  }
  static Ints End(Sum words, Ints init) { return AddInts(init, AddPairs(words)); }
};

}  // namespace
}  // namespace nibble::cpu

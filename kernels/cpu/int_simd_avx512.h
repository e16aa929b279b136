// The policy of linear_tiles_inl.h for AVX-512 (F, BW, DQ, VL): sixteen output features a register,
// strips of 8 tokens. This file explains the members; the other int_simd_*.h offer the same.
// Without VNNI, unsigned bytes times signed bytes go through VPMADDUBSW (pairs, 16 bits) and
// VPMADDWD (fours, 32 bits), as in int_simd_avx2.h; int_simd_avx512_vnni.h replaces that.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nibble::cpu {
namespace {

struct Avx512Ints {
  static constexpr int kLanes = 16;       // output features of a register
  static constexpr int kStripTokens = 8;  // with 8 sums and 8 dots half of the registers are full
  // Whether Dot takes eight-bit codes as code - 128, which undoes their zero point of 128.
  static constexpr bool kSignedBytes = true;
  using Ints = __m512i;   // one 32-bit lane a feature, or its 4 code bytes
  using Floats = __m512;  // one lane a feature
  using UnalignedInt = int32_t __attribute__((may_alias, aligned(1)));
  using UnalignedFloat = float __attribute__((may_alias, aligned(1)));

  static Ints ZeroInts() { return _mm512_setzero_si512(); }
  static Ints SetInt(int32_t x) { return _mm512_set1_epi32(x); }
  static Ints BroadcastInt(const uint8_t* p) {
    return _mm512_set1_epi32(*reinterpret_cast<const UnalignedInt*>(p));
  }
  static Ints LoadBytes(const uint8_t* p) { return _mm512_load_si512(p); }  // aligned
  static Ints LowNibbles(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
  static Ints HighNibbles(Ints x) { return LowNibbles(_mm512_srli_epi16(x, 4)); }
  static Ints ByteOf(Ints x, int i) {  // byte i of each lane, widened
    return _mm512_and_si512(_mm512_srl_epi32(x, _mm_cvtsi32_si128(8 * i)), _mm512_set1_epi32(255));
  }
  static Ints And(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  static Ints Or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
  static void StoreBytes(uint8_t* p, Ints x) { _mm512_store_si512(p, x); }  // aligned
  static Ints WidenU8(const uint8_t* p) {  // kLanes bytes to kLanes lanes
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints WidenS8(const uint8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints WidenU16(const uint8_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Ints RepeatBytes16(const uint8_t* p) {  // 16 bytes, again and again
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // Byte i of the result is byte indexes[i] of what RepeatBytes16 repeated; indexes are 0 .. 15.
  static Ints Lookup(Ints table, Ints indexes) { return _mm512_shuffle_epi8(table, indexes); }
  static Ints AddInts(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints SubInts(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  template <int kBits>
  static Ints ShiftLeft(Ints x) {
    return _mm512_slli_epi32(x, kBits);
  }
  template <int kBits>
  static Ints ShiftRight(Ints x) {  // zeros come in
    return _mm512_srli_epi32(x, kBits);
  }
  static Floats AsFloats(Ints x) { return _mm512_castsi512_ps(x); }
  // Neighbouring 16-bit sums, widened and added: a lane is then an output feature.
  static Ints AddPairs(Ints words) { return _mm512_madd_epi16(words, _mm512_set1_epi16(1)); }

  // The lower 16 bits of each lane of `first`, those of `second` above them.
  static Ints JoinWords(Ints first, Ints second) {
    const Ints up = _mm512_set1_epi32(0x01000100);  // bytes 0 and 1 of a lane of `second`
    const Ints lanes = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
    return _mm512_mask_shuffle_epi8(first, 0xCCCCCCCCCCCCCCCC, second, AddInts(up, lanes));
  }
  // 16-bit lanes, two a feature: round(a * b / 2^15), no operand of -2^15; the sum of both
  // products; and that of pairs with the two that all features share, added to `sum`.
  static Ints MulHighWords(Ints a, Ints b) { return _mm512_mulhrs_epi16(a, b); }
  static Ints MulWordPairs(Ints a, Ints b) { return _mm512_madd_epi16(a, b); }
  static Ints AddWordPairs(Ints sum, Ints a, const uint8_t* b) {
    return AddInts(sum, MulWordPairs(a, BroadcastInt(b)));
  }

  // Sums of unsigned codes of at most kLimit times signed bytes. Begin(init) .. Add .. End(sum,
  // init) is init + all products; Zero() .. Add .. End(sum, 0) a second chain.
  //
  // Codes of up to 127: a pair of products is at most 2 * 127 * 127. Eight-bit codes would saturate
  // 16 bits (2 * 255 * 127), so |w| is the unsigned operand and the activation takes w's sign: at
  // most 2 * 128 * 127, which 16 bits just hold.
  template <int kLimit>
  struct Dot {
    using Sum = Ints;
    static Sum Begin(Ints init) { return init; }
    static Sum Zero() { return ZeroInts(); }
    static Sum Add(Sum sum, Ints codes, const uint8_t* x) {
      if constexpr (kLimit <= 127) {
        return AddInts(sum, AddPairs(_mm512_maddubs_epi16(codes, BroadcastInt(x))));
      }
      const Ints w = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
      const Ints all = BroadcastInt(x);
      const Ints signed_x = _mm512_mask_sub_epi8(all, _mm512_movepi8_mask(w), ZeroInts(), all);
      return AddInts(sum, AddPairs(_mm512_maddubs_epi16(_mm512_abs_epi8(w), signed_x)));
    }
    static Ints End(Sum sum, Ints) { return sum; }
  };

  static Floats ZeroFloats() { return _mm512_setzero_ps(); }
  static Floats SetFloat(float x) { return _mm512_set1_ps(x); }
  static Floats BroadcastFloat(const uint8_t* p) {
    return _mm512_set1_ps(*reinterpret_cast<const UnalignedFloat*>(p));
  }
  static Floats LoadFloats(const void* p) { return _mm512_loadu_ps(p); }
  static Floats LoadF16(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Floats LoadBf16(const uint8_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  // kLanes e4m3 codes, each 2^-8 of its value: the bits fit an f16, whose exponent bias is 8 more.
  static Floats LoadE4m3(const uint8_t* p) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i f16 = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(-0x4001));
    return _mm512_cvtph_ps(f16);
  }
  static Floats LoadE5m2(const uint8_t* p) {  // the upper halves of f16s
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
  }
  using Table16 = __m512;  // 16 floats, looked up by lanes of 0 .. 15
  static Table16 LoadTable16(const float* p) { return _mm512_loadu_ps(p); }
  static Floats Lookup16(Table16 table, Ints indexes) {
    return _mm512_permutexvar_ps(indexes, table);
  }
  static void StoreFloats(float* p, Floats x) { _mm512_storeu_ps(p, x); }
  static Floats ToFloats(Ints x) { return _mm512_cvtepi32_ps(x); }
  static Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats Mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats Fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

  // y[i] (+)= value[i] + bias[i] for the first min(num_rows, kLanes) lanes; bias may be null.
  static void StoreRow(Floats value, float* y, const float* bias, int num_rows, bool accumulate) {
    const auto rows = static_cast<__mmask16>(num_rows >= kLanes ? 0xFFFFu : (1u << num_rows) - 1u);
    if (bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(rows, bias));
    if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), value);
    _mm512_mask_storeu_ps(y, rows, value);
  }

  // --- quantizing rows of 32 columns; those of eight rows are this policy's own: a reduction of
  // eight registers at once takes a third of the instructions of eight alone

  // Lane t of the result is all 16 lanes of v[t] put together by `op`.
  template <class Op>
  static __m256i ReduceEach8(const Ints (&v)[8], Op&& op) {
    Ints pairs[4], fours[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      pairs[i] = op(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                    _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      fours[i] = op(_mm512_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]),
                    _mm512_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]));
    }
    // 128-bit lanes: two of the first four rows, two of the second.
    const Ints halves = op(_mm512_shuffle_i32x4(fours[0], fours[1], _MM_SHUFFLE(1, 0, 1, 0)),
                           _mm512_shuffle_i32x4(fours[0], fours[1], _MM_SHUFFLE(3, 2, 3, 2)));
    const Ints all = op(halves, _mm512_shuffle_i32x4(halves, halves, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm512_castsi512_si256(_mm512_shuffle_i32x4(all, all, _MM_SHUFFLE(2, 0, 2, 0)));
  }
  // Bits of |x[i]| or |x[i + 16]|, the larger, in lane i.
  static Ints Magnitudes32(const float* x) {
    const Ints magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    return _mm512_max_epu32(
        _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x)), magnitude),
        _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x + 16)), magnitude));
  }
  // codes[i] = round(x[i] * inverse) of 16 columns, all 0 when inverse is; and as integers.
  static Ints CodesOf16(const float* x, float inverse, uint8_t* codes) {
    const __mmask16 keep = inverse != 0 ? 0xFFFF : 0;
    const Ints ints =
        _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(ints));
    return ints;
  }

  // The largest bit pattern of |x[0 .. 31]|.
  static uint32_t MaxMagnitude32(const float* x) {
    return _mm512_reduce_max_epu32(Magnitudes32(x));
  }
  // codes[i] = round(x[i] * inverse), all 0 when inverse is; sum[h] = the sum of codes 16 h ..
  static void Quantize32(const float* x, float inverse, uint8_t* codes, int32_t (&sum)[2]) {
    for (int h = 0; h < 2; ++h) {
      sum[h] = _mm512_reduce_add_epi32(CodesOf16(x + 16 * h, inverse, codes + 16 * h));
    }
  }
  // largest[t] = MaxMagnitude32(x + t * stride).
  static void MaxMagnitudes8(const float* x, int64_t stride, uint32_t* largest) {
    Ints rows[8];
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) rows[t] = Magnitudes32(x + t * stride);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(largest),
                        ReduceEach8(rows, [](Ints a, Ints b) { return _mm512_max_epu32(a, b); }));
  }
  // Quantize32 of eight rows, codes 32 bytes apart; sums[t] of all 32.
  static void Quantize8(const float* x, int64_t stride, const float* inverses, uint8_t* codes,
                        int32_t* sums) {
    Ints rows[8];
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      const float* row = x + t * stride;
      rows[t] = AddInts(CodesOf16(row, inverses[t], codes + 32 * t),
                        CodesOf16(row + 16, inverses[t], codes + 32 * t + 16));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), ReduceEach8(rows, AddInts));
  }
};

// Nibbles: a pair of products is at most 2 * 15 * 127, so the eight of a chunk can wait in 16 bits
// before they are widened.
template <>
struct Avx512Ints::Dot<15> {
  using Sum = Ints;
  static Sum Begin(Ints) { return ZeroInts(); }
  static Sum Zero() { return ZeroInts(); }
  static Sum Add(Sum words, Ints w, const uint8_t* x) {
    return _mm512_add_epi16(words, _mm512_maddubs_epi16(w, BroadcastInt(x)));
  }
  static Ints End(Sum words, Ints init) { return AddInts(init, AddPairs(words)); }
};

}  // namespace
}  // namespace nibble::cpu

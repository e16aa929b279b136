// Eight floats: AVX2 with FMA and F16C. The members are explained in simd_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nibble::cpu {
namespace {

struct Avx2Vec {
  static constexpr int kWidth = 8;
  static constexpr int kRowBlock =
      6;  // 6 x 2 accumulators, 2 columns and a broadcast: 15 of 16 registers
  static constexpr int kColBlock = 2;
  using Reg = __m256;

  static Reg Zero() { return _mm256_setzero_ps(); }
  static Reg Set1(float x) { return _mm256_set1_ps(x); }
  static Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  // x holds pairs (x0, x1), cs their (cos, sin): each pair turned by its angle.
  static Reg RotatePairs(Reg x, Reg cs) {
    const Reg swapped = _mm256_permute_ps(x, 0xB1);
    return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(cs), Mul(swapped, _mm256_movehdup_ps(cs)));
  }
  // 2 * kWidth floats at p: the even ones, and the odd ones.
  static void LoadPairs(const float* p, Reg* even, Reg* odd) {
    const Reg a = Load(p), b = Load(p + 8);
    *even = InLaneOrder(_mm256_shuffle_ps(a, b, 0x88));
    *odd = InLaneOrder(_mm256_shuffle_ps(a, b, 0xDD));
  }
  static Reg InLaneOrder(Reg x) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xD8));
  }
  static __m256i FirstLanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Reg LoadPartial(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
  static void Store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static void StorePartial(float* p, Reg x, int n) { _mm256_maskstore_ps(p, FirstLanes(n), x); }
  static Reg LoadF16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg LoadBf16(const uint16_t* p) {
    const __m256i words =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  }
  static Reg LoadI8(const int8_t* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  // Widened with its sign and shifted by 7, a code lies on f16's fields; bit 14 is the sign again.
  static Reg LoadE4m3(const uint8_t* p) {
    const __m128i words = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i fields =
        _mm_and_si128(_mm_slli_epi16(words, 7), _mm_set1_epi16(static_cast<int16_t>(0xBFFF)));
    return _mm256_cvtph_ps(fields);
  }
  static void StoreF16Partial(uint16_t* p, Reg x, int n) {
    const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
    if (n >= kWidth) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
      return;
    }
    alignas(16) uint16_t whole[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(whole), halves);
    for (int i = 0; i < n; ++i) p[i] = whole[i];
  }
  static Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg Max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static bool AnyNan(Reg a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }
  static bool AnyEqual(Reg a, Reg b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) != 0;
  }
  static bool AnyGreater(Reg a, Reg b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
  }
  static Reg KeepFirst(Reg a, int n, Reg other) {
    return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(FirstLanes(n)));
  }
  static float ReduceAdd(Reg a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float ReduceMax(Reg a) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  // exp by x = n ln2 + r and a polynomial in r (Cephes expf's coefficients); within 2 ulp, 0 below
  // -110, infinity above 89, NaN stays NaN. The power of two is applied in halves so that neither
  // half overflows.
  static Reg Exp(Reg x) {
    x = _mm256_min_ps(Set1(89.0f), _mm256_max_ps(Set1(-110.0f), x));
    const Reg n = _mm256_round_ps(Mul(x, Set1(1.44269504088896341f)),
                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    Reg r = Fma(n, Set1(-0.693359375f), x);
    r = Fma(n, Set1(2.12194440e-4f), r);
    Reg p = Set1(1.9875691500e-4f);
    p = Fma(p, r, Set1(1.3981999507e-3f));
    p = Fma(p, r, Set1(8.3334519073e-3f));
    p = Fma(p, r, Set1(4.1665795894e-2f));
    p = Fma(p, r, Set1(1.6666665459e-1f));
    p = Fma(p, r, Set1(5.0000001201e-1f));
    p = Add(Fma(Mul(r, r), p, r), Set1(1.0f));
    const __m256i power = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(power, 1);
    return Mul(Mul(p, PowerOfTwo(half)), PowerOfTwo(_mm256_sub_epi32(power, half)));
  }
  // 2^x for x of at most 128: x = n + r with r in [-1/2, 1/2] and a polynomial in r (1 + r times
  // the interpolant of (2^r - 1) / r at 5 Chebyshev nodes); within 3e-7 of the true value (of one
  // above 1, times it), 1 at 0, below 2^-126 at -127 and less, infinity at 128; NaN stays NaN.
  static Reg Exp2(Reg x) {
    x = _mm256_max_ps(Set1(-127.0f), x);
    const Reg n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Reg r = Sub(x, n);
    Reg p = Set1(0.00133813021f);
    p = Fma(p, r, Set1(0.00966636837f));
    p = Fma(p, r, Set1(0.0555038117f));
    p = Fma(p, r, Set1(0.240223497f));
    p = Fma(p, r, Set1(0.693147182f));
    p = Fma(p, r, Set1(1.0f));
    return Mul(p, PowerOfTwo(_mm256_cvtps_epi32(n)));
  }
  static Reg PowerOfTwo(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace
}  // namespace nibble::cpu

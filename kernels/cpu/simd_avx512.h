// Sixteen floats: AVX-512 F, BW, DQ and VL. The members are explained in simd_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace nibble::cpu {
namespace {

struct Avx512Vec {
  static constexpr int kWidth = 16;
  static constexpr int kRowBlock =
      6;  // 6 x 4 accumulators, 4 columns and a broadcast: 29 of 32 registers
  static constexpr int kColBlock = 4;
  using Reg = __m512;

  static Reg Zero() { return _mm512_setzero_ps(); }
  static Reg Set1(float x) { return _mm512_set1_ps(x); }
  static Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg RotatePairs(Reg x, Reg cs) {
    const Reg swapped = _mm512_permute_ps(x, 0xB1);
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(cs), Mul(swapped, _mm512_movehdup_ps(cs)));
  }
  static void LoadPairs(const float* p, Reg* even, Reg* odd) {
    const Reg a = Load(p), b = Load(p + 16);
    const __m512i evens =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, evens, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), b);
  }
  static __mmask16 FirstLanes(int n) {
    return n >= 16 ? static_cast<__mmask16>(0xFFFF)
                   : static_cast<__mmask16>(n <= 0 ? 0u : (1u << n) - 1u);
  }
  static Reg LoadPartial(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
  static void Store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static void StorePartial(float* p, Reg x, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), x); }
  static Reg LoadF16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg LoadBf16(const uint16_t* p) {
    const __m512i words =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  }
  static Reg LoadI8(const int8_t* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static Reg LoadE4m3(const uint8_t* p) {  // as Avx2Vec's
    const __m256i words =
        _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i fields = _mm256_and_si256(_mm256_slli_epi16(words, 7),
                                            _mm256_set1_epi16(static_cast<int16_t>(0xBFFF)));
    return _mm512_cvtph_ps(fields);
  }
  static void StoreF16Partial(uint16_t* p, Reg x, int n) {
    _mm256_mask_storeu_epi16(p, FirstLanes(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
  static Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg Max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static bool AnyNan(Reg a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
  static bool AnyEqual(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) != 0; }
  static bool AnyGreater(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  static Reg KeepFirst(Reg a, int n, Reg other) {
    return _mm512_mask_blend_ps(FirstLanes(n), other, a);
  }
  static float ReduceAdd(Reg a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float ReduceMax(Reg a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  // As Avx2Vec::Exp; scalef applies the power of two in one step, subnormals included.
  static Reg Exp(Reg x) {
    x = _mm512_min_ps(Set1(89.0f), _mm512_max_ps(Set1(-110.0f), x));
    const Reg n = _mm512_roundscale_ps(Mul(x, Set1(1.44269504088896341f)),
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
    return _mm512_scalef_ps(p, n);
  }
  // As Avx2Vec::Exp2.
  static Reg Exp2(Reg x) {
    x = _mm512_max_ps(Set1(-150.0f), x);
    const Reg n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Reg r = Sub(x, n);
    Reg p = Set1(0.00133813021f);
    p = Fma(p, r, Set1(0.00966636837f));
    p = Fma(p, r, Set1(0.0555038117f));
    p = Fma(p, r, Set1(0.240223497f));
    p = Fma(p, r, Set1(0.693147182f));
    p = Fma(p, r, Set1(1.0f));
    return _mm512_scalef_ps(p, n);
  }
};

}  // namespace
}  // namespace nibble::cpu

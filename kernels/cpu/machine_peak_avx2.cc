// Compiled with -mavx2 -mfma -mf16c.
#include "kernels/cpu/machine_peak.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>

#include "kernels/cpu/machine_peak_inl.h"

namespace nibble::cpu {
namespace {

constexpr int kSums = 8;
// A pair of u4 x s8 products, as VPMADDUBSW gives it, is at most 2 * 15 * 127 in size, so 8 of them
// fit 16 bits before VPMADDWD widens them.
constexpr int kNarrowSteps = 8;

int64_t Int8Macs(int64_t rounds) {
  __m256i sums[kSums];
  for (__m256i& sum : sums) sum = Hidden(_mm256_setzero_si256());
  __m256i weights = _mm256_set1_epi8(15);
  const __m256i codes = _mm256_set1_epi8(-3), ones = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; ++r) {
    for (__m256i& sum : sums) {
      __m256i narrow = _mm256_setzero_si256();
      for (int i = 0; i < kNarrowSteps; ++i) {
        weights = Hidden(weights);
        narrow = _mm256_add_epi16(narrow, _mm256_maddubs_epi16(weights, codes));
      }
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(narrow, ones));
    }
  }
  for (const __m256i sum : sums) Hidden(sum);
  return rounds * kSums * kNarrowSteps * 32;
}

int64_t F32Macs(int64_t rounds) {
  constexpr int kFloatSums = 12;  // latency 4, two a cycle
  __m256 sums[kFloatSums];
  for (__m256& sum : sums) sum = Hidden(_mm256_setzero_ps());
  const __m256 a = _mm256_set1_ps(1.5f), b = _mm256_set1_ps(-0.5f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(a, b, sum);
  }
  for (const __m256 sum : sums) Hidden(sum);
  return rounds * kFloatSums * 8;
}

uint64_t Read(const uint8_t* data, int64_t size_bytes) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (int64_t at = 0; at < size_bytes; at += 256) {
    for (int i = 0; i < 8; ++i) {
      const auto* p = reinterpret_cast<const __m256i*>(data + at + 32 * i);
      sums[i] = _mm256_xor_si256(sums[i], _mm256_load_si256(p));
    }
  }
  __m256i all = sums[0];
  for (int i = 1; i < 8; ++i) all = _mm256_xor_si256(all, sums[i]);
  const __m128i half = _mm_xor_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(half) ^ _mm_extract_epi64(half, 1));
}

}  // namespace

const PeakKernels kAvx2Peak = {Int8Macs, F32Macs, Read};

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const PeakKernels kAvx2Peak = {};
}  // namespace nibble::cpu

#endif

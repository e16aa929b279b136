// Compiled with the AVX-512 flags of CMakeLists.txt, VNNI among them.
#include "kernels/cpu/machine_peak.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__)

#include <immintrin.h>

#include "kernels/cpu/machine_peak_inl.h"

namespace nibble::cpu {
namespace {

constexpr int kSums = 16;  // latency 4 or 5, two a cycle at most

int64_t Int8Macs(int64_t rounds) {
  __m512i sums[kSums];
  for (__m512i& sum : sums) sum = Hidden(_mm512_setzero_si512());
  __m512i weights = _mm512_set1_epi8(15);
  const __m512i codes = _mm512_set1_epi8(-3);
  for (int64_t r = 0; r < rounds; ++r) {
    weights = Hidden(weights);
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, weights, codes);
  }
  for (const __m512i sum : sums) Hidden(sum);
  return rounds * kSums * 64;
}

int64_t F32Macs(int64_t rounds) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = Hidden(_mm512_setzero_ps());
  const __m512 a = _mm512_set1_ps(1.5f), b = _mm512_set1_ps(-0.5f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(a, b, sum);
  }
  for (const __m512 sum : sums) Hidden(sum);
  return rounds * kSums * 16;
}

uint64_t Read(const uint8_t* data, int64_t size_bytes) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t at = 0; at < size_bytes; at += 512) {
    for (int i = 0; i < 8; ++i) {
      sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(data + at + 64 * i));
    }
  }
  __m512i all = sums[0];
  for (int i = 1; i < 8; ++i) all = _mm512_xor_si512(all, sums[i]);
  return static_cast<uint64_t>(_mm512_reduce_or_epi64(all));
}

}  // namespace

const PeakKernels kAvx512Peak = {Int8Macs, F32Macs, Read};

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const PeakKernels kAvx512Peak = {};
}  // namespace nibble::cpu

#endif

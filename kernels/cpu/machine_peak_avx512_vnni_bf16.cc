// Compiled with the AVX-512 flags of CMakeLists.txt, BF16 among them.
#include "kernels/cpu/machine_peak.h"

#if defined(__AVX512BF16__)

#include <immintrin.h>

#include "kernels/cpu/machine_peak_inl.h"

namespace nibble::cpu {
namespace {

constexpr int kSums = 16;  // latency 6, one a cycle

int64_t Bf16Macs(int64_t rounds) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = Hidden(_mm512_setzero_ps());
  const __m512i a = Hidden(_mm512_set1_epi16(0x3FC0)), b = Hidden(_mm512_set1_epi16(0x3F00));
  for (int64_t r = 0; r < rounds; ++r) {
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  for (const __m512 sum : sums) Hidden(sum);
  return rounds * kSums * 32;
}

}  // namespace

const MacsFn kAvx512Bf16Macs = Bf16Macs;

}  // namespace nibble::cpu

#else  // not an x86-64 compiler: never chosen (isa.h), but linked

namespace nibble::cpu {
const MacsFn kAvx512Bf16Macs = nullptr;
}  // namespace nibble::cpu

#endif

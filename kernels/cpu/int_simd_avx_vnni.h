// int_simd_avx2.h with AVX-VNNI: VPDPBUSD on 256 bits, for processors that have it without AVX-512
// (Alder Lake and later client cores, Sierra Forest). The instruction has two encodings, VEX
// (AVX-VNNI) and EVEX (AVX-512-VNNI with VL), which compute the same; the flags of the translation
// unit choose. So a test compiles linear_avx_vnni.cc once more for EVEX and runs its logic on
// machines that have only that (tests/kernels/cpu/CMakeLists.txt).
#pragma once

#include "kernels/cpu/int_simd_avx2.h"

namespace nibble::cpu {
namespace {

struct AvxVnniInts : Avx2Ints {
  static constexpr bool kSignedBytes = false;  // eight-bit codes stay unsigned: code = value + 128

  template <int kLimit>
  struct Dot {
    using Sum = Ints;
    static Sum Begin(Ints init) { return init; }
    static Sum Zero() { return ZeroInts(); }
    static Sum Add(Sum sum, Ints w, const uint8_t* x) {
#if defined(__AVXVNNI__)
      return _mm256_dpbusd_avx_epi32(sum, w, BroadcastInt(x));
#else
      return _mm256_dpbusd_epi32(sum, w, BroadcastInt(x));
#endif
    }
    static Ints End(Sum sum, Ints) { return sum; }
  };
};

}  // namespace
}  // namespace nibble::cpu

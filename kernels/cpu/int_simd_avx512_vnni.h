// int_simd_avx512.h with VNNI: VPDPBUSD multiplies 64 unsigned weight bytes with 64 signed
// activation bytes and adds fours of them into 16 lanes, one feature each; the weight is the
// register operand, four activations of one token the broadcast one. The 32-bit sum does not
// saturate: VPDPBUSDS would.
//
// What bounds it: on Zen 4 one 512-bit multiply of any kind issues a cycle. 64 columns of Q4_1 are
// 16 dot products and, for their two groups at once, a product of scales, one of those with the
// dots, one of offsets and a fused add; all else hides behind those twenty.
#pragma once

#include "kernels/cpu/int_simd_avx512.h"

namespace nibble::cpu {
namespace {

struct Avx512VnniInts : Avx512Ints {
  static constexpr bool kSignedBytes = false;  // eight-bit codes stay unsigned: code = value + 128

  template <int kLimit>
  struct Dot {
    using Sum = Ints;
    static Sum Begin(Ints init) { return init; }
    static Sum Zero() { return ZeroInts(); }
    // One instruction that broadcasts as it reads: GCC makes two of the intrinsic's, and where a
    // neighbour has the core's other thread, decoding them is what bounds the loop.
    static Sum Add(Sum sum, Ints w, const uint8_t* x) {
      asm("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(sum)
          : "v"(w), "m"(*reinterpret_cast<const UnalignedInt*>(x)));
      return sum;
    }
    static Ints End(Sum sum, Ints) { return sum; }
  };
  static Ints AddWordPairs(Ints sum, Ints a, const uint8_t* b) {
    asm("vpdpwssd %2%{1to16%}, %1, %0"
        : "+v"(sum)
        : "v"(a), "m"(*reinterpret_cast<const UnalignedInt*>(b)));
    return sum;
  }
};

}  // namespace
}  // namespace nibble::cpu

// One float at a time: the readable oracle of the vector widths. simd_avx2.h and simd_avx512.h
// offer the same members, and the kernels (*_inl.h) are written once against them. Nothing here may
// be called from another namespace than the including translation unit's: each is compiled with its
// own instruction set, so nothing may be shared by the linker.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/half.h"

namespace nibble::cpu {
namespace {

struct ScalarVec {
  static constexpr int kWidth = 1;
  static constexpr int kRowBlock = 2;  // rows a micro-kernel keeps in registers
  static constexpr int kColBlock = 2;  // vectors of columns beside them
  using Reg = float;

  static Reg Zero() { return 0.0f; }
  static Reg Set1(float x) { return x; }
  static Reg Load(const float* p) { return *p; }
  static Reg LoadPartial(const float* p, int n) {
    return n > 0 ? *p : 0.0f;
  }  // the first n, then zeros
  static void Store(float* p, Reg x) { *p = x; }
  static void StorePartial(float* p, Reg x, int n) {
    if (n > 0) *p = x;
  }
  static Reg LoadF16(const uint16_t* p) { return F16ToF32(*p); }
  static Reg LoadBf16(const uint16_t* p) { return Bf16ToF32(*p); }
  static Reg LoadI8(const int8_t* p) { return *p; }
  // Codes of e4m3 (no NaN), read as value * 2^-8: the bits then are an f16's, only moved.
  static Reg LoadE4m3(const uint8_t* p) {
    return F16ToF32(static_cast<uint16_t>((*p & 0x80) << 8 | (*p & 0x7F) << 7));
  }
  static void StoreF16Partial(uint16_t* p, Reg x, int n) {
    if (n > 0) *p = F32ToF16(x);
  }
  static Reg Add(Reg a, Reg b) { return a + b; }
  static Reg Sub(Reg a, Reg b) { return a - b; }
  static Reg Mul(Reg a, Reg b) { return a * b; }
  static Reg Div(Reg a, Reg b) { return a / b; }
  static Reg Fma(Reg a, Reg b, Reg c) { return a * b + c; }
  static Reg Max(Reg a, Reg b) { return a > b ? a : b; }
  static bool AnyNan(Reg a) { return a != a; }
  static bool AnyEqual(Reg a, Reg b) { return a == b; }
  static bool AnyGreater(Reg a, Reg b) { return a > b; }
  static Reg KeepFirst(Reg a, int n, Reg other) {
    return n > 0 ? a : other;
  }  // lanes >= n from other
  static float ReduceAdd(Reg a) { return a; }
  static float ReduceMax(Reg a) { return a; }
  static Reg Exp(Reg a) { return std::exp(a); }
  static Reg Exp2(Reg a) { return std::exp2(a); }  // of at most 128, or NaN
};

}  // namespace
}  // namespace nibble::cpu

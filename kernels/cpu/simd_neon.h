// Four floats: NEON of arm64 (ARMv8.0 has its fused multiply-add and its f16 conversions). The
// members are explained in simd_scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace nibble::cpu {
namespace {

struct NeonVec {
  static constexpr int kWidth = 4;
  static constexpr int kRowBlock =
      6;  // 6 x 4 accumulators, 4 columns and a broadcast: 29 of 32 registers
  static constexpr int kColBlock = 4;
  using Reg = float32x4_t;

  static Reg Zero() { return vdupq_n_f32(0.0f); }
  static Reg Set1(float x) { return vdupq_n_f32(x); }
  static Reg Load(const float* p) { return vld1q_f32(p); }
  // x holds pairs (x0, x1), cs their (cos, sin): each pair turned by its angle.
  static Reg RotatePairs(Reg x, Reg cs) {
    const Reg cos = vtrn1q_f32(cs, cs), sin = vtrn2q_f32(cs, cs);
    const Reg minus_plus = vtrn1q_f32(vnegq_f32(sin), sin);  // -sin, sin
    return vfmaq_f32(vmulq_f32(vrev64q_f32(x), minus_plus), x, cos);
  }
  // 2 * kWidth floats at p: the even ones, and the odd ones.
  static void LoadPairs(const float* p, Reg* even, Reg* odd) {
    const float32x4x2_t pairs = vld2q_f32(p);
    *even = pairs.val[0];
    *odd = pairs.val[1];
  }
  static Reg LoadPartial(const float* p, int n) {
    if (n >= kWidth) return Load(p);
    float whole[kWidth] = {};
    for (int i = 0; i < n; ++i) whole[i] = p[i];
    return Load(whole);
  }
  static void Store(float* p, Reg x) { vst1q_f32(p, x); }
  static void StorePartial(float* p, Reg x, int n) {
    if (n >= kWidth) return Store(p, x);
    float whole[kWidth];
    Store(whole, x);
    for (int i = 0; i < n; ++i) p[i] = whole[i];
  }
  static Reg LoadF16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static Reg LoadBf16(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
  static int16x4_t WidenFour(const void* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four))));
  }
  static Reg LoadI8(const int8_t* p) { return vcvtq_f32_s32(vmovl_s16(WidenFour(p))); }
  static Reg LoadE4m3(const uint8_t* p) {  // as Avx2Vec's
    const uint16x4_t words = vreinterpret_u16_s16(vshl_n_s16(WidenFour(p), 7));
    return vcvt_f32_f16(vreinterpret_f16_u16(vand_u16(words, vdup_n_u16(0xBFFF))));
  }
  static void StoreF16Partial(uint16_t* p, Reg x, int n) {
    const uint16x4_t halves = vreinterpret_u16_f16(vcvt_f16_f32(x));
    if (n >= kWidth) return vst1_u16(p, halves);
    uint16_t whole[kWidth];
    vst1_u16(whole, halves);
    for (int i = 0; i < n; ++i) p[i] = whole[i];
  }
  static Reg Add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg Sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static Reg Mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg Div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  // b where they do not compare, as on x86: FMAX would spread a NaN.
  static Reg Max(Reg a, Reg b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static bool Any(uint32x4_t lanes) { return vmaxvq_u32(lanes) != 0; }
  static bool AnyNan(Reg a) { return Any(vmvnq_u32(vceqq_f32(a, a))); }
  static bool AnyEqual(Reg a, Reg b) { return Any(vceqq_f32(a, b)); }
  static bool AnyGreater(Reg a, Reg b) { return Any(vcgtq_f32(a, b)); }
  static Reg KeepFirst(Reg a, int n, Reg other) {
    const int32x4_t lane = {0, 1, 2, 3};
    return vbslq_f32(vcltq_s32(lane, vdupq_n_s32(n)), a, other);
  }
  static float ReduceAdd(Reg a) {
    const float32x2_t two = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static float ReduceMax(Reg a) {
    const Reg two = Max(a, vextq_f32(a, a, 2));
    return vgetq_lane_f32(Max(two, vextq_f32(two, two, 1)), 0);
  }
  // As Avx2Vec::Exp.
  static Reg Exp(Reg x) {
    x = vminq_f32(Set1(89.0f), vmaxq_f32(Set1(-110.0f), x));  // FMIN and FMAX keep a NaN
    const Reg n = vrndnq_f32(Mul(x, Set1(1.44269504088896341f)));
    Reg r = Fma(n, Set1(-0.693359375f), x);
    r = Fma(n, Set1(2.12194440e-4f), r);
    Reg p = Set1(1.9875691500e-4f);
    p = Fma(p, r, Set1(1.3981999507e-3f));
    p = Fma(p, r, Set1(8.3334519073e-3f));
    p = Fma(p, r, Set1(4.1665795894e-2f));
    p = Fma(p, r, Set1(1.6666665459e-1f));
    p = Fma(p, r, Set1(5.0000001201e-1f));
    p = Add(Fma(Mul(r, r), p, r), Set1(1.0f));
    const int32x4_t power = vcvtnq_s32_f32(n);
    const int32x4_t half = vshrq_n_s32(power, 1);
    return Mul(Mul(p, PowerOfTwo(half)), PowerOfTwo(vsubq_s32(power, half)));
  }
  static Reg Exp2(Reg x) {  // as Avx2Vec's
    x = vmaxq_f32(Set1(-127.0f), x);
    const Reg n = vrndnq_f32(x);
    const Reg r = Sub(x, n);
    Reg p = Set1(0.00133813021f);
    p = Fma(p, r, Set1(0.00966636837f));
    p = Fma(p, r, Set1(0.0555038117f));
    p = Fma(p, r, Set1(0.240223497f));
    p = Fma(p, r, Set1(0.693147182f));
    p = Fma(p, r, Set1(1.0f));
    return Mul(p, PowerOfTwo(vcvtnq_s32_f32(n)));
  }
  static Reg PowerOfTwo(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
  }
};

}  // namespace
}  // namespace nibble::cpu

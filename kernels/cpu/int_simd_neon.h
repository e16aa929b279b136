// The policy of linear_tiles_inl.h for NEON with DotProd (ARMv8.2): eight output features in two
// registers, strips of 4 tokens: 16 of the 32 registers are sums and dots. Members as in
// int_simd_avx512.h. SDOT multiplies signed bytes with signed bytes and adds fours into 32 bits;
// nibbles are non-negative as they are, eight-bit codes become signed by flipping their top bit.
//
// Not measured on real hardware; its tests run under qemu-user.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace nibble::cpu {
namespace {

struct NeonInts {
  static constexpr int kLanes = 8;
  static constexpr int kStripTokens = 4;
  static constexpr bool kSignedBytes = true;
  using Ints = int32x4x2_t;
  using Floats = float32x4x2_t;
  using UnalignedInt = int32_t __attribute__((may_alias, aligned(1)));
  using UnalignedFloat = float __attribute__((may_alias, aligned(1)));

  static Ints Both(int32x4_t x) { return {{x, x}}; }
  static Floats Both(float32x4_t x) { return {{x, x}}; }

  static Ints ZeroInts() { return Both(vdupq_n_s32(0)); }
  static Ints SetInt(int32_t x) { return Both(vdupq_n_s32(x)); }
  static int32x4_t BroadcastFour(const uint8_t* p) {
    return vdupq_n_s32(*reinterpret_cast<const UnalignedInt*>(p));
  }
  static Ints BroadcastInt(const uint8_t* p) { return Both(BroadcastFour(p)); }
  static Ints LoadBytes(const uint8_t* p) {
    return {{vreinterpretq_s32_u8(vld1q_u8(p)), vreinterpretq_s32_u8(vld1q_u8(p + 16))}};
  }
  static Ints LowNibbles(Ints x) {
    const int32x4_t nibble = vdupq_n_s32(0x0F0F0F0F);
    return {{vandq_s32(x.val[0], nibble), vandq_s32(x.val[1], nibble)}};
  }
  static int32x4_t HighNibblesOf(int32x4_t x) {
    return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(x), 4));
  }
  static Ints HighNibbles(Ints x) { return {{HighNibblesOf(x.val[0]), HighNibblesOf(x.val[1])}}; }
  static Ints ByteOf(Ints x, int i) {
    const int32x4_t right = vdupq_n_s32(-8 * i);
    const int32x4_t byte = vdupq_n_s32(255);
    return {
        {vandq_s32(vshlq_s32(x.val[0], right), byte), vandq_s32(vshlq_s32(x.val[1], right), byte)}};
  }
  static Ints And(Ints a, Ints b) {
    return {{vandq_s32(a.val[0], b.val[0]), vandq_s32(a.val[1], b.val[1])}};
  }
  static Ints Or(Ints a, Ints b) {
    return {{vorrq_s32(a.val[0], b.val[0]), vorrq_s32(a.val[1], b.val[1])}};
  }
  static void StoreBytes(uint8_t* p, Ints x) {
    vst1q_u8(p, vreinterpretq_u8_s32(x.val[0]));
    vst1q_u8(p + 16, vreinterpretq_u8_s32(x.val[1]));
  }
  static Ints WidenU8(const uint8_t* p) {
    const uint16x8_t words = vmovl_u8(vld1_u8(p));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))),
             vreinterpretq_s32_u32(vmovl_high_u16(words))}};
  }
  static Ints WidenS8(const uint8_t* p) {
    const int16x8_t words = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
    return {{vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)}};
  }
  static Ints WidenU16(const uint8_t* p) {
    const uint16x8_t words = vreinterpretq_u16_u8(vld1q_u8(p));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))),
             vreinterpretq_s32_u32(vmovl_high_u16(words))}};
  }
  static Ints RepeatBytes16(const uint8_t* p) { return Both(vreinterpretq_s32_u8(vld1q_u8(p))); }
  static int32x4_t LookupOf(int32x4_t table, int32x4_t indexes) {
    return vreinterpretq_s32_u8(
        vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(indexes)));
  }
  static Ints Lookup(Ints table, Ints indexes) {
    return {{LookupOf(table.val[0], indexes.val[0]), LookupOf(table.val[0], indexes.val[1])}};
  }
  static Ints AddInts(Ints a, Ints b) {
    return {{vaddq_s32(a.val[0], b.val[0]), vaddq_s32(a.val[1], b.val[1])}};
  }
  static Ints SubInts(Ints a, Ints b) {
    return {{vsubq_s32(a.val[0], b.val[0]), vsubq_s32(a.val[1], b.val[1])}};
  }
  template <int kBits>
  static Ints ShiftLeft(Ints x) {
    return {{vshlq_n_s32(x.val[0], kBits), vshlq_n_s32(x.val[1], kBits)}};
  }
  template <int kBits>
  static int32x4_t ShiftRightOf(int32x4_t x) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), kBits));
  }
  template <int kBits>
  static Ints ShiftRight(Ints x) {
    return {{ShiftRightOf<kBits>(x.val[0]), ShiftRightOf<kBits>(x.val[1])}};
  }
  static Floats AsFloats(Ints x) {
    return {{vreinterpretq_f32_s32(x.val[0]), vreinterpretq_f32_s32(x.val[1])}};
  }

  static int16x8_t Words(int32x4_t x) { return vreinterpretq_s16_s32(x); }
  static int32x4_t JoinWordsOf(int32x4_t first, int32x4_t second) {
    return vreinterpretq_s32_s16(vtrn1q_s16(Words(first), Words(second)));
  }
  static Ints JoinWords(Ints first, Ints second) {
    return {{JoinWordsOf(first.val[0], second.val[0]), JoinWordsOf(first.val[1], second.val[1])}};
  }
  static int32x4_t MulHighWordsOf(int32x4_t a, int32x4_t b) {
    return vreinterpretq_s32_s16(vqrdmulhq_s16(Words(a), Words(b)));
  }
  static Ints MulHighWords(Ints a, Ints b) {
    return {{MulHighWordsOf(a.val[0], b.val[0]), MulHighWordsOf(a.val[1], b.val[1])}};
  }
  static int32x4_t MulWordPairsOf(int32x4_t a, int32x4_t b) {
    return vpaddq_s32(vmull_s16(vget_low_s16(Words(a)), vget_low_s16(Words(b))),
                      vmull_high_s16(Words(a), Words(b)));
  }
  static Ints MulWordPairs(Ints a, Ints b) {
    return {{MulWordPairsOf(a.val[0], b.val[0]), MulWordPairsOf(a.val[1], b.val[1])}};
  }
  static Ints AddWordPairs(Ints sum, Ints a, const uint8_t* b) {
    return AddInts(sum, MulWordPairs(a, BroadcastInt(b)));
  }

  template <int kLimit>
  struct Dot {
    using Sum = Ints;
    static Sum Begin(Ints init) { return init; }
    static Sum Zero() { return ZeroInts(); }
    static int8x16_t Signed(int32x4_t codes) {
      const int8x16_t bytes = vreinterpretq_s8_s32(codes);
      return kLimit <= 127 ? bytes : veorq_s8(bytes, vdupq_n_s8(-128));
    }
    static Sum Add(Sum sum, Ints codes, const uint8_t* x) {
      const int8x16_t four = vreinterpretq_s8_s32(BroadcastFour(x));
      return {{vdotq_s32(sum.val[0], Signed(codes.val[0]), four),
               vdotq_s32(sum.val[1], Signed(codes.val[1]), four)}};
    }
    static Ints End(Sum sum, Ints) { return sum; }
  };

  static Floats ZeroFloats() { return Both(vdupq_n_f32(0)); }
  static Floats SetFloat(float x) { return Both(vdupq_n_f32(x)); }
  static Floats BroadcastFloat(const uint8_t* p) {
    return SetFloat(*reinterpret_cast<const UnalignedFloat*>(p));
  }
  static Floats LoadFloats(const void* p) {
    const auto* floats = static_cast<const float*>(p);
    return {{vld1q_f32(floats), vld1q_f32(floats + 4)}};
  }
  static Floats FromF16(uint16x8_t bits) {
    const float16x8_t halves = vreinterpretq_f16_u16(bits);
    return {{vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)}};
  }
  static Floats LoadF16(const uint8_t* p) { return FromF16(vreinterpretq_u16_u8(vld1q_u8(p))); }
  static Floats LoadBf16(const uint8_t* p) {
    const uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(p));
    return {{vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
             vreinterpretq_f32_u32(vshll_high_n_u16(bits, 16))}};
  }
  static Floats LoadE4m3(const uint8_t* p) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
    return FromF16(vandq_u16(vreinterpretq_u16_s16(vshlq_n_s16(wide, 7)), vdupq_n_u16(0xBFFF)));
  }
  static Floats LoadE5m2(const uint8_t* p) { return FromF16(vshll_n_u8(vld1_u8(p), 8)); }
  using Table16 = uint8x16x4_t;
  static Table16 LoadTable16(const float* p) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(p);
    return {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
  }
  static float32x4_t Lookup16Of(Table16 table, int32x4_t indexes) {  // by the bytes of each float
    const int32x4_t at = vmlaq_s32(vdupq_n_s32(0x03020100), indexes, vdupq_n_s32(0x04040404));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_s32(at)));
  }
  static Floats Lookup16(Table16 table, Ints indexes) {
    return {{Lookup16Of(table, indexes.val[0]), Lookup16Of(table, indexes.val[1])}};
  }
  static void StoreFloats(float* p, Floats x) {
    vst1q_f32(p, x.val[0]);
    vst1q_f32(p + 4, x.val[1]);
  }
  static Floats ToFloats(Ints x) { return {{vcvtq_f32_s32(x.val[0]), vcvtq_f32_s32(x.val[1])}}; }
  static Floats Add(Floats a, Floats b) {
    return {{vaddq_f32(a.val[0], b.val[0]), vaddq_f32(a.val[1], b.val[1])}};
  }
  static Floats Mul(Floats a, Floats b) {
    return {{vmulq_f32(a.val[0], b.val[0]), vmulq_f32(a.val[1], b.val[1])}};
  }
  static Floats Fma(Floats a, Floats b, Floats c) {
    return {{vfmaq_f32(c.val[0], a.val[0], b.val[0]), vfmaq_f32(c.val[1], a.val[1], b.val[1])}};
  }

  static void StoreRow(Floats value, float* y, const float* bias, int num_rows, bool accumulate) {
    if (num_rows >= kLanes) {
      if (bias != nullptr) value = Add(value, LoadFloats(bias));
      if (accumulate) value = Add(LoadFloats(y), value);
      return StoreFloats(y, value);
    }
    float row[kLanes];
    StoreFloats(row, value);
    for (int i = 0; i < num_rows; ++i) {
      const float sum = bias != nullptr ? row[i] + bias[i] : row[i];
      y[i] = accumulate ? y[i] + sum : sum;
    }
  }

  static uint32_t MaxMagnitude32(const float* x) {
    uint32x4_t largest = vdupq_n_u32(0);
    for (int i = 0; i < 32; i += 4) {
      const uint32x4_t bits = vreinterpretq_u32_f32(vld1q_f32(x + i));
      largest = vmaxq_u32(largest, vandq_u32(bits, vdupq_n_u32(0x7FFFFFFF)));
    }
    return vmaxvq_u32(largest);
  }
  static void Quantize32(const float* x, float inverse, uint8_t* codes, int32_t (&sum)[2]) {
    const int32x4_t keep = vdupq_n_s32(inverse != 0 ? -1 : 0);
    for (int h = 0; h < 2; ++h) {
      int32x4_t ints[4];
      for (int i = 0; i < 4; ++i) {
        const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * i), inverse);
        ints[i] = vandq_s32(vcvtnq_s32_f32(scaled), keep);
      }
      const int16x8_t lo = vcombine_s16(vmovn_s32(ints[0]), vmovn_s32(ints[1]));
      const int16x8_t hi = vcombine_s16(vmovn_s32(ints[2]), vmovn_s32(ints[3]));
      vst1q_u8(codes + 16 * h, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(lo), vmovn_s16(hi))));
      sum[h] = vaddvq_s32(vaddq_s32(vaddq_s32(ints[0], ints[1]), vaddq_s32(ints[2], ints[3])));
    }
  }
};

}  // namespace
}  // namespace nibble::cpu

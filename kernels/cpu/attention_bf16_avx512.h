// Attention's products in bf16 (attention_f32_inl.h explains the members): pairs of rows,
// VDPBF16PS, sums in f32. Twice the multiply-adds of F32Products<Avx512Vec>. Needs AVX-512 F, BW,
// DQ, VL, BF16.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kv_codec_inl.h"
#include "kernels/cpu/simd_avx512.h"

namespace nibble::cpu {
namespace {

struct Avx512Bf16Products {
  using V = Avx512Vec;
  using Reg = V::Reg;
  static constexpr int kSpan = 2;

  static void StoreOperands(float* row, int32_t i, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<uint16_t*>(row) + i),
                        (__m256i)_mm512_cvtneps_pbh(x));
  }
  static Reg Join(Reg first, Reg second) {
    return Interleave((__m512i)_mm512_cvtne2ps_pbh(second, first));
  }
  template <class Codec>
  static Reg Load(const typename Codec::Code* p, int32_t stride) {
    return LoadPair(Codec(), p, stride);
  }
  static Reg KeepFirstRow(Reg x) { return _mm512_and_ps(x, FloatBits(0x0000FFFF)); }
  static Reg MultiplyAdd(Reg operands, Reg rows, Reg sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)operands, (__m512bh)rows);
  }

 private:
  static Reg FloatBits(int bits) { return _mm512_castsi512_ps(_mm512_set1_epi32(bits)); }
  // Of 16 values of one row, then 16 of the next: 16 pairs.
  static Reg Interleave(__m512i rows) {
    const __m512i lanes = _mm512_setr_epi32(
        0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
        0x190009, 0x1A000A, 0x1B000B, 0x1C000C, 0x1D000D, 0x1E000E, 0x1F000F);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(lanes, rows));
  }
  template <class Codec>
  static Reg LoadPair(Codec, const typename Codec::Code* p, int32_t stride) {
    return Join(Codec::Load(p), Codec::Load(p + stride));
  }
  // Codes that need no rounding.
  static Reg LoadPair(Bf16Codec<V>, const uint16_t* p, int32_t stride) {
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + stride));
    return Interleave(_mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1));
  }
};

}  // namespace
}  // namespace nibble::cpu

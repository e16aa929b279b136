// The two 16-bit floats as a type each, so that a kernel is written once: conversions, and the
// instructions on pairs.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/ptx_warp_group.cuh"
#include "kernels/half.h"

namespace nibble::cuda {

struct Bf16 {
  static constexpr bool kIsF16 = false;
  static constexpr uint32_t kOnes = 0x3F803F80u;
  // A 4-bit code below these bits is 128 + code.
  static constexpr uint32_t kCodeBits = 0x43004300u;
  static constexpr float kCodeBase = 128;

  static __device__ __forceinline__ float ToFloat(uint16_t x) {
    return ptx::FloatOfBits(static_cast<uint32_t>(x) << 16);
  }
  static __device__ __forceinline__ float Low(uint32_t pair) {
    return ptx::FloatOfBits(pair << 16);
  }
  static __device__ __forceinline__ float High(uint32_t pair) {
    return ptx::FloatOfBits(pair & 0xFFFF0000u);
  }
  static __device__ __forceinline__ uint32_t Pack(float low, float high) {
    return ptx::PackBf16x2(low, high);
  }
  static __device__ __forceinline__ uint32_t Fma(uint32_t a, uint32_t b, uint32_t c) {
    return ptx::FmaBf16x2(a, b, c);
  }
  static __device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    ptx::MmaBf16(d, a, b);
  }
  template <bool kAdd, int kTiles>
  static __device__ __forceinline__ void MultiplyGroup(float (&d)[kTiles][4],
                                                       const uint32_t (&a)[4], uint64_t b) {
    ptx::MultiplyBf16<kAdd>(d, a, b);
  }
  static uint16_t HostFromFloat(float x) { return F32ToBf16(x); }
};

struct F16 {
  static constexpr bool kIsF16 = true;
  static constexpr uint32_t kOnes = 0x3C003C00u;
  static constexpr uint32_t kCodeBits = 0x64006400u;  // 1024 + code
  static constexpr float kCodeBase = 1024;

  static __device__ __forceinline__ float ToFloat(uint16_t x) { return ptx::F16ToF32(x); }
  static __device__ __forceinline__ float Low(uint32_t pair) {
    return ToFloat(static_cast<uint16_t>(pair));
  }
  static __device__ __forceinline__ float High(uint32_t pair) {
    return ToFloat(static_cast<uint16_t>(pair >> 16));
  }
  static __device__ __forceinline__ uint32_t Pack(float low, float high) {
    return ptx::PackF16x2(low, high);
  }
  static __device__ __forceinline__ uint32_t Fma(uint32_t a, uint32_t b, uint32_t c) {
    return ptx::FmaF16x2(a, b, c);
  }
  static __device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    ptx::MmaF16(d, a, b);
  }
  template <bool kAdd, int kTiles>
  static __device__ __forceinline__ void MultiplyGroup(float (&d)[kTiles][4],
                                                       const uint32_t (&a)[4], uint64_t b) {
    ptx::MultiplyF16<kAdd>(d, a, b);
  }
  static uint16_t HostFromFloat(float x) { return F32ToF16(x); }
};

}  // namespace nibble::cuda

// The second body of every function of kernels/cuda/ptx.cuh, which says what each one does: here it
// is executed and checked. The last parameter of those that can go wrong is the place of the call.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "emulator/device.h"
#include "emulator/instructions.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble::cuda::ptx {

using emulator::Location;

inline emulator::Block& RunningBlock() { return emulator::TheGpu().block(); }

// --- shared memory and asynchronous copies

inline uint32_t SharedAddress(const void* pointer, const Location& where = Location::current()) {
  if (!RunningBlock().shared().Owns(pointer))
    RunningBlock().Fail("the address is not in shared memory", &where);
  return RunningBlock().shared().AddressOf(pointer);
}
inline void CopyAsync16(uint32_t to, const void* from, int valid_bytes = 16,
                        const Location& where = Location::current()) {
  RunningBlock().StartCopy(to, from, 16, valid_bytes, where);
}
inline void CopyAsync4(uint32_t to, const void* from, int valid_bytes = 4,
                       const Location& where = Location::current()) {
  RunningBlock().StartCopy(to, from, 4, valid_bytes, where);
}
inline void CommitCopies() { RunningBlock().CommitCopies(); }
template <int kPending>
void WaitCopies() {
  RunningBlock().WaitCopies(kPending);
}
inline int ThreadIndex() { return static_cast<int>(threadIdx.x); }
inline void SyncThreads(const Location& where = Location::current()) {
  RunningBlock().Barrier(where);
}
inline void SyncWarp(const Location& where = Location::current()) {
  RunningBlock().WarpSync(where);
}
inline uint4 LoadShared16(uint32_t from, const Location& where = Location::current()) {
  return RunningBlock().Load16(RunningBlock().SharedPointer(from, 16, where), where);
}
inline void StoreShared16(uint32_t to, uint4 v, const Location& where = Location::current()) {
  RunningBlock().Store16(RunningBlock().SharedPointer(to, 16, where), v, where);
}

inline uint2 LoadShared8(uint32_t from, const Location& where = Location::current()) {
  return RunningBlock().Load8(RunningBlock().SharedPointer(from, 8, where), where);
}
inline void StoreShared8(uint32_t to, uint2 v, const Location& where = Location::current()) {
  RunningBlock().Store8(RunningBlock().SharedPointer(to, 8, where), v, where);
}
inline uint32_t AtomicAddShared(uint32_t counter, uint32_t value,
                                const Location& where = Location::current()) {
  return RunningBlock().AtomicAddShared(counter, value, where);
}

// --- global memory

inline uint4 LoadGlobal16(const void* from, const Location& where = Location::current()) {
  return RunningBlock().Load16(from, where);
}
inline uint2 LoadGlobal8(const void* from, const Location& where = Location::current()) {
  return RunningBlock().Load8(from, where);
}
inline void StoreGlobal16(void* to, uint4 v, const Location& where = Location::current()) {
  RunningBlock().Store16(to, v, where);
}
inline void StoreGlobal8(void* to, uint2 v, const Location& where = Location::current()) {
  RunningBlock().Store8(to, v, where);
}
inline void Fence() { RunningBlock().Fence(); }
inline uint32_t AtomicAdd(uint32_t* counter, uint32_t value,
                          const Location& where = Location::current()) {
  return RunningBlock().AtomicAdd(counter, value, where);
}

// --- programmatic dependent launch

inline void WaitForLaunches() { RunningBlock().WaitForLaunches(); }
inline void LaunchDependents() {}

// --- matrices

inline void LoadMatrix4(uint32_t (&m)[4], uint32_t row_address,
                        const Location& where = Location::current()) {
  emulator::LoadMatrixArgument argument{row_address, m, false, where};
  RunningBlock().Collective(&argument, emulator::LoadMatrix, where);
}
inline void LoadMatrix4Transposed(uint32_t (&m)[4], uint32_t row_address,
                                  const Location& where = Location::current()) {
  emulator::LoadMatrixArgument argument{row_address, m, true, where};
  RunningBlock().Collective(&argument, emulator::LoadMatrix, where);
}
inline uint32_t TransposeMatrix(uint32_t m, const Location& where = Location::current()) {
  emulator::TransposeArgument argument{m, 0};
  RunningBlock().Collective(&argument, emulator::Transpose, where);
  return argument.out;
}
inline void MmaF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                   const Location& where = Location::current()) {
  emulator::MmaArgument argument{d, a, b};
  RunningBlock().Collective(&argument, emulator::MmaF16, where);
}
inline void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    const Location& where = Location::current()) {
  emulator::MmaArgument argument{d, a, b};
  RunningBlock().Collective(&argument, emulator::MmaBf16, where);
}

// --- lanes

inline uint32_t ShuffleXor(uint32_t value, int lane_mask,
                           const Location& where = Location::current()) {
  emulator::ShuffleArgument argument{value, 0, RunningBlock().thread().lane ^ lane_mask};
  RunningBlock().Collective(&argument, emulator::Shuffle, where);
  return argument.out;
}
inline float ShuffleXor(float value, int lane_mask, const Location& where = Location::current()) {
  return std::bit_cast<float>(ShuffleXor(std::bit_cast<uint32_t>(value), lane_mask, where));
}

// --- arithmetic on registers

template <int kTable>
uint32_t Lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out = 0;
  for (int i = 0; i < 8; ++i) {
    if (kTable >> i & 1) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return out;
}
inline uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i);
    uint32_t byte = bytes >> (nibble & 7) * 8 & 0xFF;
    if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xFF : 0;
    out |= byte << (8 * i);
  }
  return out;
}

inline float F16ToF32(uint16_t half) { return nibble::F16ToF32(half); }
// Rounds twice, to f32 and to 16 bits; that is once for the kernels' operands, small integers and
// their sums.
template <float (*kToFloat)(uint16_t), uint16_t (*kFromFloat)(float)>
uint32_t FmaHalves(uint32_t a, uint32_t b, uint32_t c) {
  const auto fma = [](uint32_t x, uint32_t y, uint32_t z) {
    const auto f = [](uint32_t bits) { return kToFloat(static_cast<uint16_t>(bits)); };
    return uint32_t{kFromFloat(std::fma(f(x), f(y), f(z)))};
  };
  return fma(a, b, c) | fma(a >> 16, b >> 16, c >> 16) << 16;
}
inline uint32_t FmaF16x2(uint32_t a, uint32_t b, uint32_t c) {
  return FmaHalves<nibble::F16ToF32, F32ToF16>(a, b, c);
}
inline uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) {
  return FmaHalves<Bf16ToF32, F32ToBf16>(a, b, c);
}
inline float Multiply(float a, float b) { return a * b; }
inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float Max(float a, float b) { return std::fmax(a, b); }
inline uint32_t PackF16x2(float low, float high) {
  return F32ToF16(low) | uint32_t{F32ToF16(high)} << 16;
}
inline uint32_t PackBf16x2(float low, float high) {
  return F32ToBf16(low) | uint32_t{F32ToBf16(high)} << 16;
}

template <bool kUpper>
uint32_t E4m3ToF16x2(uint32_t codes) {
  const auto convert = [](uint32_t code) {
    return uint32_t{F32ToF16(E4m3ToF32(static_cast<uint8_t>(code)))};
  };
  const uint32_t pair = kUpper ? codes >> 16 : codes;
  return convert(pair) | convert(pair >> 8) << 16;
}

inline float FloatOfBits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t BitsOfFloat(float value) { return std::bit_cast<uint32_t>(value); }
inline float Exp2(float x) { return std::exp2(x); }
inline float Log2(float x) { return std::log2(x); }
inline float InverseSqrt(float x) { return 1.0f / std::sqrt(x); }

}  // namespace nibble::cuda::ptx

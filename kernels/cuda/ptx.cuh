// Every PTX instruction that the kernels use, as one named function; no other file has `asm`, and
// no kernel calls a CUDA intrinsic. Each has a second body in tests/kernels/cuda/emulator/ptx.h,
// which is what runs where there is no GPU. Warp collectives are over all 32 lanes: kernels keep
// whole warps together.
//
// Register fragments are the PTX ISA's ("Matrix Fragments for mma.m16n8k16 with floating point
// type"); two 16-bit values of a row share a register, the lower column in the lower half.
#pragma once

#include "kernels/cuda/device.cuh"

#ifndef __CUDACC__
#include "emulator/ptx.h"
#else

#define NIBBLE_PTX __device__ __forceinline__

namespace nibble::cuda::ptx {

// --- shared memory and asynchronous copies (sm_80)

// The address of shared memory as the instructions below take it.
NIBBLE_PTX uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts copying 16 bytes from global to shared memory past the L1 cache; of these, `valid_bytes`
// are read and the rest becomes zero. Both 16-byte aligned.
NIBBLE_PTX void CopyAsync16(uint32_t to, const void* from, int valid_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid_bytes)
               : "memory");
}

// The same of 4 bytes, through the L1 cache; both 4-byte aligned.
NIBBLE_PTX void CopyAsync4(uint32_t to, const void* from, int valid_bytes = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid_bytes)
               : "memory");
}

// Closes the group of copies that this thread has started.
NIBBLE_PTX void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most kPending of this thread's latest groups are unfinished. Other threads see them
// after a barrier.
template <int kPending>
NIBBLE_PTX void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// threadIdx.x, read at this place: where registers are short, so that none holds what follows from
// it for longer.
NIBBLE_PTX int ThreadIndex() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

NIBBLE_PTX void SyncThreads() { __syncthreads(); }
NIBBLE_PTX void SyncWarp() { __syncwarp(); }

NIBBLE_PTX uint4 LoadShared16(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

NIBBLE_PTX void StoreShared16(uint32_t to, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

NIBBLE_PTX uint2 LoadShared8(uint32_t from) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(from) : "memory");
  return v;
}

NIBBLE_PTX void StoreShared8(uint32_t to, uint2 v) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(v.x), "r"(v.y) : "memory");
}

// Adds to four bytes of shared memory and returns the old value. Atomics of several threads need no
// barrier among themselves.
NIBBLE_PTX uint32_t AtomicAddShared(uint32_t counter, uint32_t value) {
  uint32_t old;
  asm volatile("atom.shared.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "r"(counter), "r"(value)
               : "memory");
  return old;
}

// --- global memory

NIBBLE_PTX uint4 LoadGlobal16(const void* from) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

NIBBLE_PTX uint2 LoadGlobal8(const void* from) {
  uint2 v;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from) : "memory");
  return v;
}

NIBBLE_PTX void StoreGlobal16(void* to, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

NIBBLE_PTX void StoreGlobal8(void* to, uint2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}

// Orders this thread's (and, after a barrier, its block's) accesses for the whole device.
NIBBLE_PTX void Fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }

// Returns the old value.
NIBBLE_PTX uint32_t AtomicAdd(uint32_t* counter, uint32_t value) {
  uint32_t old;
  asm volatile("atom.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(counter), "r"(value)
               : "memory");
  return old;
}

// --- programmatic dependent launch (sm_90; devices before it start such a launch like any other)

// Until the launches before this one are done and what they wrote is seen. Every thread of a kernel
// with LaunchShape::dependent calls it, and reads nothing before it that a kernel wrote.
NIBBLE_PTX void WaitForLaunches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the next launch may start, if it is a dependent one: once all blocks of this launch
// have come here or have exited. It says nothing of what this one has written.
NIBBLE_PTX void LaunchDependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// --- matrices

// Four 8 x 8 matrices of 16-bit values: lane l passes the address of row l % 8 of matrix l / 8
// (16-byte aligned), and gets the values (l / 4, 2 * (l % 4) + {0, 1}) of each.
NIBBLE_PTX void LoadMatrix4(uint32_t (&m)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row_address)
               : "memory");
}

// The same of the transposed matrices: values (2 * (l % 4) + {0, 1}, l / 4) of what is stored.
NIBBLE_PTX void LoadMatrix4Transposed(uint32_t (&m)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(row_address)
               : "memory");
}

// Transposes an 8 x 8 matrix of 16-bit values that lies in the warp's registers.
NIBBLE_PTX uint32_t TransposeMatrix(uint32_t m) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(m));
  return out;
}

// d += a * b for 16 x 16 and 16 x 8, f32 accumulators.
NIBBLE_PTX void MmaF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

NIBBLE_PTX void MmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- lanes

// The value of lane (own lane ^ lane_mask).
NIBBLE_PTX uint32_t ShuffleXor(uint32_t value, int lane_mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, lane_mask);
}
NIBBLE_PTX float ShuffleXor(float value, int lane_mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, lane_mask);
}

// --- arithmetic on registers

// Bit by bit the function whose truth table is kTable, indexed by (a, b, c).
template <int kTable>
NIBBLE_PTX uint32_t Lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(out) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return out;
}

// Byte i of the result is the byte of (a, b) that the i-th nibble of `selector` numbers, 0 .. 7;
// with 8 more, that byte's highest bit eight times.
NIBBLE_PTX uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(selector));
  return out;
}

// a * b + c on both halves, rounded once.
NIBBLE_PTX uint32_t FmaF16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
NIBBLE_PTX uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

// a * b, and a * b + c rounded once. What the compiler makes of * and + may be either; where the
// bits of two kernels must agree, these say which.
NIBBLE_PTX float Multiply(float a, float b) {
  float out;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}
NIBBLE_PTX float Fma(float a, float b, float c) {
  float out;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(out) : "f"(a), "f"(b), "f"(c));
  return out;
}

// The larger; of a number and a NaN the number.
NIBBLE_PTX float Max(float a, float b) {
  float out;
  asm("max.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}

// Two floats to two 16-bit values, to nearest even.
NIBBLE_PTX uint32_t PackF16x2(float low, float high) {
  uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
NIBBLE_PTX uint32_t PackBf16x2(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

NIBBLE_PTX float F16ToF32(uint16_t half) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(half));
  return out;
}

// The two e4m3 numbers in the lower (kUpper: upper) half of `codes` as two f16, exactly; the lower
// byte's comes into the lower half. One instruction from sm_89 on.
template <bool kUpper>
NIBBLE_PTX uint32_t E4m3ToF16x2(uint32_t codes) {
#if __CUDA_ARCH__ >= 890
  uint32_t out;
  const auto pair = static_cast<uint16_t>(kUpper ? codes >> 16 : codes);
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(out) : "h"(pair));
  return out;
#else
  // The bits where an f16 has them; its exponent's bias is 8 more.
  const uint32_t extended = BytePermute(codes, 0, kUpper ? 0xB3A2u : 0x9180u);
  return FmaF16x2(extended << 7 & 0xBF80BF80u, 0x5C005C00u, 0x80008000u);
#endif
}

NIBBLE_PTX float FloatOfBits(uint32_t bits) { return __uint_as_float(bits); }
NIBBLE_PTX uint32_t BitsOfFloat(float value) { return __float_as_uint(value); }

// 2^x, within 2 ulp; 1 / sqrt(x), within 2 ulp.
NIBBLE_PTX float Exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
// log2(x), within 2^-21 near 1 and 2 ulp elsewhere.
NIBBLE_PTX float Log2(float x) {
  float out;
  asm("lg2.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}
NIBBLE_PTX float InverseSqrt(float x) {
  float out;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

}  // namespace nibble::cuda::ptx

#undef NIBBLE_PTX
#endif  // __CUDACC__

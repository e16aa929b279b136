// The instructions of warp groups that the kernels use (PTX ISA 8.x, "wgmma"; sm_90a alone), like
// ptx.cuh and with a second body in tests/kernels/cuda/emulator/ptx_warp_group.h. A warp group is
// four warps whose first one's number is a multiple of four; all of its threads take part in each
// of these.
//
//   OrderSharedForProducts   every thread that wrote operands, before the barrier
//   OrderRegisters           before products whose registers other instructions wrote
//   MultiplyF16, MultiplyBf16 ...
//   CommitProducts           closes the group of products
//   WaitProducts<n>          until at most n groups are unfinished; only then may accumulators be
//                            read, and what is in shared memory be overwritten
#pragma once

#include "kernels/cuda/device.cuh"

namespace nibble::cuda::ptx {

// Where 8, 16, .. rows of 64 16-bit values lie in shared memory, as a product takes its second
// operand: row r at base + 128 r, its 16-byte chunk c at c ^ (r % 8) ("128-byte swizzle", K-major).
// `address` is the base, a multiple of 1024.
constexpr uint64_t SwizzledRows(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32, kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnused | (address & 0x3FFFF) >> 4;
}

// The same so many bytes further: 32 for each 16 columns that come before, or other rows'.
constexpr uint64_t Further(uint64_t rows, uint32_t bytes) {
  return (rows >> 32 << 32) | (static_cast<uint32_t>(rows) + (bytes >> 4));
}

}  // namespace nibble::cuda::ptx

#ifndef __CUDACC__
#include "emulator/ptx_warp_group.h"
#else

#define NIBBLE_PTX __device__ __forceinline__
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define NIBBLE_SM90A 1
#else
#define NIBBLE_SM90A 0
#endif

namespace nibble::cuda::ptx {

// This thread's writes to shared memory, asynchronous copies that it has waited for among them, can
// be operands of products, and be written over by bulk copies (ptx_bulk.cuh), after a barrier.
NIBBLE_PTX void OrderSharedForProducts() {
#if NIBBLE_SM90A
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

NIBBLE_PTX void OrderRegisters() {
#if NIBBLE_SM90A
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

NIBBLE_PTX void CommitProducts() {
#if NIBBLE_SM90A
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int kPending>
NIBBLE_PTX void WaitProducts() {
#if NIBBLE_SM90A
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Keeps the compiler from moving what reads or writes an accumulator over this place.
template <int kTiles>
NIBBLE_PTX void Pin(float (&d)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i)
    asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

// d = a * b (kAdd: +=) for each warp's 16 x 16 of a and 8 kTiles rows of b, f32 accumulators:
// d[i] are those of rows 8 i .. of b, a and d[i] as MmaF16 has them. Asynchronous; until the group
// is waited for, d and a stay as they are.
#if NIBBLE_SM90A
#define NIBBLE_FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define NIBBLE_SIXTEEN(i) NIBBLE_FOUR(i), NIBBLE_FOUR(i + 1), NIBBLE_FOUR(i + 2), NIBBLE_FOUR(i + 3)
#define NIBBLE_OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAdd ? 1 : 0)
#define NIBBLE_D8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NIBBLE_D16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NIBBLE_D32                                                         \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NIBBLE_D64                                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NIBBLE_MULTIPLY(SHAPE, TYPE, REGISTERS, A, B, ADD)                                    \
  "{.reg .pred add;\nsetp.ne.b32 add, " ADD                                                   \
  ", 0;\n"                                                                                    \
  "wgmma.mma_async.sync.aligned." SHAPE ".f32." TYPE "." TYPE " {" REGISTERS "}, {" A "}, " B \
  ", add, 1, 1, 0;}"
#define NIBBLE_MULTIPLY_ANY(TYPE)                                                                \
  if constexpr (kTiles == 2) {                                                                   \
    asm volatile(NIBBLE_MULTIPLY("m64n16k16", TYPE, NIBBLE_D8, "%8, %9, %10, %11", "%12", "%13") \
                 : NIBBLE_FOUR(0), NIBBLE_FOUR(1)                                                \
                 : NIBBLE_OPERANDS);                                                             \
  } else if constexpr (kTiles == 4) {                                                            \
    asm volatile(                                                                                \
        NIBBLE_MULTIPLY("m64n32k16", TYPE, NIBBLE_D16, "%16, %17, %18, %19", "%20", "%21")       \
        : NIBBLE_SIXTEEN(0)                                                                      \
        : NIBBLE_OPERANDS);                                                                      \
  } else if constexpr (kTiles == 8) {                                                            \
    asm volatile(                                                                                \
        NIBBLE_MULTIPLY("m64n64k16", TYPE, NIBBLE_D32, "%32, %33, %34, %35", "%36", "%37")       \
        : NIBBLE_SIXTEEN(0), NIBBLE_SIXTEEN(4)                                                   \
        : NIBBLE_OPERANDS);                                                                      \
  } else {                                                                                       \
    static_assert(kTiles == 16);                                                                 \
    asm volatile(                                                                                \
        NIBBLE_MULTIPLY("m64n128k16", TYPE, NIBBLE_D64, "%64, %65, %66, %67", "%68", "%69")      \
        : NIBBLE_SIXTEEN(0), NIBBLE_SIXTEEN(4), NIBBLE_SIXTEEN(8), NIBBLE_SIXTEEN(12)            \
        : NIBBLE_OPERANDS);                                                                      \
  }
#else
#define NIBBLE_MULTIPLY_ANY(TYPE) asm volatile("trap;")
#endif

template <bool kAdd, int kTiles>
NIBBLE_PTX void MultiplyF16(float (&d)[kTiles][4], const uint32_t (&a)[4], uint64_t b) {
  NIBBLE_MULTIPLY_ANY("f16");
}
template <bool kAdd, int kTiles>
NIBBLE_PTX void MultiplyBf16(float (&d)[kTiles][4], const uint32_t (&a)[4], uint64_t b) {
  NIBBLE_MULTIPLY_ANY("bf16");
}

#undef NIBBLE_FOUR
#undef NIBBLE_SIXTEEN
#undef NIBBLE_OPERANDS
#undef NIBBLE_D8
#undef NIBBLE_D16
#undef NIBBLE_D32
#undef NIBBLE_D64
#undef NIBBLE_MULTIPLY
#undef NIBBLE_MULTIPLY_ANY
#undef NIBBLE_SM90A
#undef NIBBLE_PTX

}  // namespace nibble::cuda::ptx

#endif  // __CUDACC__

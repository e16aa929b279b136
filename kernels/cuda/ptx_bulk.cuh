// Bulk copies (PTX ISA 8.x, "cp.async.bulk"; sm_90) and the barriers in shared memory ("mbarrier")
// that their bytes arrive at, like ptx.cuh and with a second body in
// tests/kernels/cuda/emulator/ptx_bulk.h.
//
// A barrier is 8 bytes of shared memory, 8-byte aligned. It goes through phases: one ends when as
// many threads as it was made for have arrived, and as many bytes as they said have come. Whoever
// waits names the phase by its parity, 0 for the first.
//
//   InitBarrier, OrderBarriers   one thread, which may then arrive and copy; others after a
//                                SyncThreads
//   ArriveExpecting              before the copies of the phase, by whoever asks for them
//   CopyBulk, CopyRows           one thread each; what they write is seen by whoever waits for the
//                                phase, and by products of warp groups without a fence
//   WaitPhase                    anyone
//   Arrive                       also: that a warp (after SyncWarp) is done reading what is copied
//                                over next, for whoever waits for that phase
//
// Shared memory that ordinary instructions wrote may be copied over after OrderSharedForProducts
// (ptx_warp_group.cuh) by the writer and then a SyncThreads.
#pragma once

#include <cuda.h>

#include "kernels/cuda/device.cuh"

#ifndef __CUDACC__
#include "emulator/ptx_bulk.h"
#else

#define NIBBLE_PTX __device__ __forceinline__

namespace nibble::cuda::ptx {

NIBBLE_PTX void InitBarrier(uint32_t barrier, int arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}

// This thread's InitBarriers are seen by copies, and after a SyncThreads by everyone.
NIBBLE_PTX void OrderBarriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

NIBBLE_PTX void Arrive(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

// The phase ends only when `bytes` more have come, too.
NIBBLE_PTX void ArriveExpecting(uint32_t barrier, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}

// Until the phase of this parity has ended: the one under way, or else the one before it.
NIBBLE_PTX void WaitPhase(uint32_t barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .pred ended;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
      "@ended bra ENDED;\n"
      "bra AGAIN;\n"
      "ENDED:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// Starts copying `bytes`, a multiple of 16, from global to shared memory; both 16-byte aligned.
NIBBLE_PTX void CopyBulk(uint32_t to, const void* from, int bytes, uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

// Starts copying the map's box of rows from (row, col) on, as SwizzledRows describes them; what
// lies past the last row or column becomes zero, and its bytes count. `to` is 1024-byte aligned;
// the map lies among the kernel's parameters (tensor_map.cuh).
NIBBLE_PTX void CopyRows(uint32_t to, const CUtensorMap& map, int col, int row, uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(col), "r"(row), "r"(barrier)
      : "memory");
#endif
}

// That CopyRows will need the map.
NIBBLE_PTX void PrefetchMap(const CUtensorMap& map) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

}  // namespace nibble::cuda::ptx

#undef NIBBLE_PTX
#endif  // __CUDACC__

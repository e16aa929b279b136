// The second body of every function of kernels/cuda/ptx_bulk.cuh (see ptx.h).
#pragma once

#include <cuda.h>

#include "emulator/bulk_copies.h"
#include "emulator/ptx.h"
#include "emulator/tensor_map.h"

namespace nibble::cuda::ptx {

inline void InitBarrier(uint32_t barrier, int arrivals,
                        const Location& where = Location::current()) {
  RunningBlock().bulk_copies().Init(barrier, arrivals, where);
}
inline void OrderBarriers() { RunningBlock().bulk_copies().OrderBarriers(); }
inline void Arrive(uint32_t barrier, const Location& where = Location::current()) {
  RunningBlock().bulk_copies().Arrive(barrier, 0, where);
}
inline void ArriveExpecting(uint32_t barrier, int bytes,
                            const Location& where = Location::current()) {
  RunningBlock().bulk_copies().Arrive(barrier, bytes, where);
}
inline void WaitPhase(uint32_t barrier, uint32_t parity,
                      const Location& where = Location::current()) {
  RunningBlock().WaitPhase(barrier, parity, where);
}
inline void CopyBulk(uint32_t to, const void* from, int bytes, uint32_t barrier,
                     const Location& where = Location::current()) {
  RunningBlock().bulk_copies().Copy(to, from, bytes, barrier, where);
}
inline void CopyRows(uint32_t to, const CUtensorMap& map, int col, int row, uint32_t barrier,
                     const Location& where = Location::current()) {
  RunningBlock().bulk_copies().CopyRows(to, emulator::FieldsOf(map), col, row, barrier, where);
}
inline void PrefetchMap(const CUtensorMap&) {}

}  // namespace nibble::cuda::ptx

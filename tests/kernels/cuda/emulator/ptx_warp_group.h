// The second body of every function of kernels/cuda/ptx_warp_group.cuh (see ptx.h).
#pragma once

#include "emulator/ptx.h"
#include "emulator/warp_group.h"

namespace nibble::cuda::ptx {

inline void OrderSharedForProducts() {
  RunningBlock().shared().OrderForProducts(RunningBlock().thread().id);
}

inline void OrderRegisters(const Location& where = Location::current()) {
  RunningBlock().Collective(&RunningBlock(), emulator::OrderRegisters, where);
}
inline void CommitProducts(const Location& where = Location::current()) {
  RunningBlock().Collective(&RunningBlock(), emulator::CommitProducts, where);
}
template <int kPending>
void WaitProducts(const Location& where = Location::current()) {
  int pending = kPending;
  RunningBlock().Collective(&pending, emulator::WaitProducts, where);
}
template <int kTiles>
void Pin(float (&)[kTiles][4]) {}

template <bool kAdd, int kTiles>
void MultiplyF16(float (&d)[kTiles][4], const uint32_t (&a)[4], uint64_t b,
                 const Location& where = Location::current()) {
  emulator::GroupProductArgument argument{d[0], a, b, kTiles, kAdd, true, where};
  RunningBlock().Collective(&argument, emulator::MultiplyGroup, where);
}
template <bool kAdd, int kTiles>
void MultiplyBf16(float (&d)[kTiles][4], const uint32_t (&a)[4], uint64_t b,
                  const Location& where = Location::current()) {
  emulator::GroupProductArgument argument{d[0], a, b, kTiles, kAdd, false, where};
  RunningBlock().Collective(&argument, emulator::MultiplyGroup, where);
}

}  // namespace nibble::cuda::ptx

// Memory for weights and scratch: 64-byte aligned, zero-filled, freed with its last owner.
//
// A step streams all weights. With 4 KiB pages every page costs a walk of the page table and stops
// the hardware prefetcher, so weights share large chunks that ask the system for huge pages; most
// matrices of a small model are smaller than one. (Measured on two threads of a virtual Zen 4,
// reading 96 MB: 26 against 35 GB/s; on one thread 16 against 30.)
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels/cpu/numa.h"

namespace nibble::cpu {

using AlignedBytes = std::shared_ptr<uint8_t[]>;

// A piece of its own; null for 0 bytes. A CHECK when the system has none left.
AlignedBytes AllocateAligned(int64_t size_bytes);

// Cuts pieces from chunks, and spreads large ones over the nodes of `placement`. A chunk lives as
// long as any of its pieces; what is never cut from the last one is never touched, so it costs
// address space only. Any thread may allocate.
class WeightMemory {
 public:
  static constexpr int64_t kChunkBytes = int64_t{32} << 20;
  static constexpr int64_t kHugePageBytes = int64_t{2} << 20;

  explicit WeightMemory(NumaPlacement placement = {}) : placement_(std::move(placement)) {}

  AlignedBytes Allocate(int64_t size_bytes);

 private:
  const NumaPlacement placement_;
  std::mutex mutex_;
  AlignedBytes chunk_;  // the one being cut; null before the first
  int64_t used_ = 0;
  int64_t size_ = 0;
};

}  // namespace nibble::cpu

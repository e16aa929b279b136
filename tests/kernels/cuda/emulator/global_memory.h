// The emulated device's memory: allocations with a guard page each, and for every byte who wrote it
// last.
//
// Faults it finds in a kernel's accesses: outside of a live allocation; a read of bytes nobody
// wrote; a read or write of bytes that another block of the same launch wrote, unless that block
// released them and this one acquired them (write, fence, atomic; atomic, fence, read); of a
// dependent launch, before it waits, every write and every read of what a launch wrote that may
// still run. Not found:
// races of threads of one block through global memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace nibble::emulator {

class GlobalMemory {
 public:
  GlobalMemory();
  GlobalMemory(const GlobalMemory&) = delete;
  ~GlobalMemory();

  // 256-byte aligned, filled with 0xFF (NaN in every float type); null when the 4 GiB are used up,
  // freed ones included.
  void* Allocate(size_t bytes);
  static constexpr size_t kHeapBytes = size_t{4} << 30;
  // Of a device with this much memory, which only what is live takes; 0 lifts the limit.
  void SetLimit(size_t bytes) { limit_ = bytes; }
  size_t total_bytes() const { return limit_ == 0 ? kHeapBytes : limit_; }
  size_t free_bytes() const {
    return limit_ == 0 ? kHeapBytes - used_ : limit_ - std::min(limit_, live_bytes_);
  }
  size_t live_bytes() const { return live_bytes_; }  // as they were asked for
  bool Free(void* pointer);                          // false: not the start of a live allocation
  bool Owns(const void* pointer) const;
  bool IsLive(const void* pointer, size_t bytes) const;
  // Bytes that the host, or an atomic, wrote: every block sees them.
  void MarkSeenByAll(const void* pointer, size_t bytes);
  bool IsWritten(const void* pointer, size_t bytes) const;

  // A dependent launch starts while the launches back to the last one that is none may still run.
  void StartLaunch(bool dependent);
  void StartBlock();
  void Fence();
  void Atomic(uint32_t* address);
  // Null, or what is wrong with an access of a thread of the running block; `waited`: for the
  // launches before this one. REQUIRES Owns(pointer).
  const char* Access(const void* pointer, size_t bytes, bool write, bool waited);

 private:
  // Epochs count up for ever: one for each block and each fence. Below kFirst: never written; seen
  // by all.
  static constexpr uint32_t kNever = 0, kByHost = 1, kFirst = 2;
  bool Sees(uint32_t epoch) const;
  int32_t BlockOf(uint32_t epoch) const { return owners_[epoch - launch_epoch_]; }

  uint8_t* heap_ = nullptr;
  uint32_t* epochs_ = nullptr;  // of each byte of the heap
  size_t used_ = 0, live_bytes_ = 0;
  size_t limit_ = 0;
  std::map<uintptr_t, size_t> live_;
  mutable uintptr_t last_begin_ = 1, last_end_ = 0;  // the allocation found last

  uint32_t epoch_ = kFirst;
  uint32_t launch_epoch_ = kFirst;
  uint32_t running_epoch_ =
      kFirst;  // of the first launch that may still run beside a dependent one
  int32_t block_ = -1;
  std::vector<int32_t> owners_;  // block of each epoch of this launch
  std::map<uint32_t*, std::map<int32_t, uint32_t>>
      released_;  // at a counter: block -> its last epoch
  std::map<int32_t, uint32_t> taken_,
      acquired_;  // by atomics before, and at, this block's last fence
  uint32_t fenced_ = 0;
};

}  // namespace nibble::emulator

#include "emulator/global_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace nibble::emulator {
namespace {

constexpr size_t kPage = 4096, kAlignment = 256;

uint8_t* Reserve(size_t bytes, int protection) {
  void* memory =
      mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NIBBLE_CHECK(memory != MAP_FAILED);
  return static_cast<uint8_t*>(memory);
}

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

GlobalMemory::GlobalMemory()
    : heap_(Reserve(kHeapBytes, PROT_NONE)),
      epochs_(reinterpret_cast<uint32_t*>(
          Reserve(kHeapBytes * sizeof(uint32_t), PROT_READ | PROT_WRITE))),
      used_(kPage) {}

GlobalMemory::~GlobalMemory() {
  munmap(heap_, kHeapBytes);
  munmap(epochs_, kHeapBytes * sizeof(uint32_t));
}

void* GlobalMemory::Allocate(size_t bytes) {
  const size_t pages = RoundUp(std::max<size_t>(bytes, 1), kPage);
  if (pages > kHeapBytes || used_ + pages + kPage > kHeapBytes) return nullptr;
  if (bytes > free_bytes()) return nullptr;
  uint8_t* base = heap_ + used_;
  used_ += pages + kPage;  // the page after it stays without access
  if (mprotect(base, pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
  uint8_t* begin =
      base + pages -
      RoundUp(std::max<size_t>(bytes, 1), kAlignment);  // as near to that page as can be
  std::memset(begin, 0xFF, bytes);
  live_[reinterpret_cast<uintptr_t>(begin)] = bytes;
  live_bytes_ += bytes;
  return begin;
}

bool GlobalMemory::Free(void* pointer) {
  const auto found = live_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == live_.end()) return false;
  const uintptr_t page = found->first / kPage * kPage;
  mprotect(reinterpret_cast<void*>(page), found->first + found->second - page, PROT_NONE);
  madvise(reinterpret_cast<void*>(page), found->first + found->second - page, MADV_DONTNEED);
  std::memset(epochs_ + (found->first - reinterpret_cast<uintptr_t>(heap_)), 0,
              found->second * sizeof(uint32_t));
  live_bytes_ -= found->second;
  live_.erase(found);
  last_begin_ = 1;
  last_end_ = 0;
  return true;
}

bool GlobalMemory::Owns(const void* pointer) const {
  return static_cast<size_t>(static_cast<const uint8_t*>(pointer) - heap_) < kHeapBytes;
}

bool GlobalMemory::IsLive(const void* pointer, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  if (begin >= last_begin_ && begin + bytes <= last_end_) return true;
  auto found = live_.upper_bound(begin);
  if (found == live_.begin()) return false;
  --found;
  if (begin + bytes > found->first + found->second) return false;
  last_begin_ = found->first;
  last_end_ = found->first + found->second;
  return true;
}

void GlobalMemory::MarkSeenByAll(const void* pointer, size_t bytes) {
  std::fill_n(epochs_ + (static_cast<const uint8_t*>(pointer) - heap_), bytes, kByHost);
}

bool GlobalMemory::IsWritten(const void* pointer, size_t bytes) const {
  const uint32_t* epoch = epochs_ + (static_cast<const uint8_t*>(pointer) - heap_);
  return std::find(epoch, epoch + bytes, kNever) == epoch + bytes;
}

void GlobalMemory::StartLaunch(bool dependent) {
  launch_epoch_ = ++epoch_;
  if (!dependent) running_epoch_ = launch_epoch_;
  owners_.assign(1, -1);
  released_.clear();
  block_ = -1;
}

void GlobalMemory::StartBlock() {
  ++block_;
  ++epoch_;
  owners_.push_back(block_);
  taken_.clear();
  acquired_.clear();
  fenced_ = 0;
}

// What this block wrote so far may be released by its next atomic; what atomics gave it may be read
// from here on.
void GlobalMemory::Fence() {
  fenced_ = epoch_++;
  owners_.push_back(block_);
  acquired_ = taken_;
}

void GlobalMemory::Atomic(uint32_t* address) {
  auto& released = released_[address];
  for (const auto& [block, epoch] : released) taken_[block] = std::max(taken_[block], epoch);
  if (fenced_ != 0) released[block_] = fenced_;
  MarkSeenByAll(address, sizeof *address);
}

bool GlobalMemory::Sees(uint32_t epoch) const {
  if (epoch < launch_epoch_) return true;
  const int32_t block = BlockOf(epoch);
  if (block == block_) return true;
  const auto known = acquired_.find(block);
  return known != acquired_.end() && epoch <= known->second;
}

const char* GlobalMemory::Access(const void* pointer, size_t bytes, bool write, bool waited) {
  if (!IsLive(pointer, bytes)) return "global memory out of bounds";
  if (!waited && write) return "global memory before the wait for the launches before this one";
  uint32_t* epochs = epochs_ + (static_cast<const uint8_t*>(pointer) - heap_);
  uint32_t last = epoch_;  // neighbours mostly have the same epoch
  for (size_t i = 0; i < bytes; ++i) {
    const uint32_t epoch = epochs[i];
    if (!waited && epoch >= running_epoch_)
      return "global memory that a launch wrote which may still run, before the wait for it";
    if (epoch != last && epoch != kNever) {
      if (!Sees(epoch))
        return "global memory that another block of this launch wrote, without release and acquire";
      last = epoch;
    }
    if (write) {
      epochs[i] = epoch_;
    } else if (epoch == kNever) {
      return "global memory that was never written";
    }
  }
  return nullptr;
}

}  // namespace nibble::emulator

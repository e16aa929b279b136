#include "kernels/cpu/weight_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/check.h"

namespace nibble::cpu {
namespace {

constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t size_bytes, int64_t unit) { return (size_bytes + unit - 1) / unit * unit; }

AlignedBytes MapChunk(int64_t size_bytes) {
  constexpr int64_t kHuge = WeightMemory::kHugePageBytes;
  const int64_t mapped = size_bytes + kHuge;  // room to begin on a huge page
  void* const base = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  NIBBLE_CHECK(base != MAP_FAILED);
  auto* const begin = reinterpret_cast<uint8_t*>(
      RoundUp(static_cast<int64_t>(reinterpret_cast<uintptr_t>(base)), kHuge));
#if defined(MADV_HUGEPAGE)
  madvise(begin, static_cast<size_t>(size_bytes), MADV_HUGEPAGE);  // a wish: it may be refused
#endif
  return AlignedBytes(begin,
                      [base, mapped](uint8_t*) { munmap(base, static_cast<size_t>(mapped)); });
}

}  // namespace

AlignedBytes AllocateAligned(int64_t size_bytes) {
  if (size_bytes == 0) return nullptr;
  const auto rounded = static_cast<size_t>(RoundUp(size_bytes, kAlignment));
  auto* const bytes = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, rounded));
  NIBBLE_CHECK(bytes != nullptr);
  std::memset(bytes, 0, rounded);
  return AlignedBytes(bytes, [](uint8_t* p) { std::free(p); });
}

AlignedBytes WeightMemory::Allocate(int64_t size_bytes) {
  if (size_bytes == 0) return nullptr;
  const int64_t rounded = RoundUp(size_bytes, kAlignment);
  std::lock_guard<std::mutex> lock(mutex_);
  if (chunk_ == nullptr || size_ - used_ < rounded) {
    size_ = RoundUp(std::max(rounded, kChunkBytes), kHugePageBytes);
    chunk_ = MapChunk(size_);
    used_ = 0;
  }
  uint8_t* const piece = chunk_.get() + used_;
  used_ += rounded;
  placement_.SpreadRows(piece, rounded);
  return AlignedBytes(chunk_, piece);
}

}  // namespace nibble::cpu

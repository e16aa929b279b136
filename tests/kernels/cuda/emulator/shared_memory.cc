#include "emulator/shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace nibble::emulator {
namespace {

constexpr size_t kPage = 4096, kAlignment = 1024, kMapBytes = 256 << 10, kGuardBytes = 64 * kPage;

}  // namespace

SharedMemory::SharedMemory() : shadow_(kMaxBytes / kGranule) {
  void* map = mmap(nullptr, kMapBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  NIBBLE_CHECK(map != MAP_FAILED);
  map_ = static_cast<uint8_t*>(map);
  NIBBLE_CHECK(mprotect(map_ + kMapBytes, kGuardBytes, PROT_NONE) == 0);
  begin_ = map_ + kMapBytes;
}

SharedMemory::~SharedMemory() { munmap(map_, kMapBytes + kGuardBytes); }

void SharedMemory::StartBlock(size_t bytes) {
  bytes_ = bytes;
  begin_ = map_ + kMapBytes - (bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::memset(begin_, 0xFF, bytes);
  first_barrier_ = ++barrier_;
  for (Shadow& shadow : shadow_) shadow.in_flight = false;
}

void SharedMemory::PassBarrier() {
  ++barrier_;
  std::ranges::copy(orders_, orders_at_barrier_);
}

bool SharedMemory::Owns(const void* pointer) const {
  return static_cast<size_t>(At(pointer) - map_) < kMapBytes + kGuardBytes;
}

bool SharedMemory::ReadsAreOrdered(const Shadow& shadow, int thread) const {
  if (shadow.read_barrier < barrier_) return true;  // none since the last barrier
  if (shadow.readers == Readers::kMany) return false;
  if (shadow.readers == Readers::kOne && shadow.reader == thread) return true;
  return shadow.reader / 32 == thread / 32 && shadow.read_sync < warp_syncs_[thread / 32];
}

SharedMemory::Fault SharedMemory::Check(const Shadow& shadow, Kind kind, int thread) const {
  if (shadow.in_flight) return Fault::kInFlight;
  const bool written = shadow.write_barrier >= first_barrier_;
  const bool ordered =
      !written || shadow.writer == thread || shadow.write_barrier < barrier_ ||
      (kind == Kind::kAtomic && shadow.atomic) ||
      (shadow.writer / 32 == thread / 32 && shadow.write_sync < warp_syncs_[thread / 32]);
  if (!ordered) return Fault::kRaceWithWrite;
  if (kind != Kind::kRead && !ReadsAreOrdered(shadow, thread)) return Fault::kRaceWithRead;
  return kind != Kind::kWrite && !written ? Fault::kNeverWritten : Fault::kNone;
}

void SharedMemory::RecordRead(Shadow& shadow, int thread) {
  const uint32_t sync = warp_syncs_[thread / 32];
  if (shadow.read_barrier < barrier_) {
    shadow.readers = Readers::kOne;
  } else if (shadow.readers == Readers::kMany || shadow.reader / 32 != thread / 32) {
    shadow.readers = Readers::kMany;
  } else if (shadow.read_sync < sync) {
    shadow.readers =
        Readers::kOne;  // a writer of another warp races with this read as with the older ones
  } else if (shadow.reader != thread) {
    shadow.readers = Readers::kWarp;
  }
  shadow.reader = static_cast<uint16_t>(thread);
  shadow.read_barrier = barrier_;
  shadow.read_sync = sync;
}

void SharedMemory::RecordWrite(Shadow& shadow, bool atomic, int thread) {
  // A write of this thread that other threads' atomics race with is not forgotten for its own.
  const bool is_new = shadow.write_barrier < barrier_;
  shadow.atomic = atomic && (shadow.atomic || is_new || shadow.writer != thread);
  shadow.writer = static_cast<uint16_t>(thread);
  shadow.write_barrier = barrier_;
  shadow.write_sync = warp_syncs_[thread / 32];
  shadow.write_order = orders_[thread];
  shadow.read_barrier = 0;
}

std::string SharedMemory::Access(const void* pointer, size_t bytes, bool write, int thread) {
  return Access(pointer, bytes, write ? Kind::kWrite : Kind::kRead, thread);
}

std::string SharedMemory::AccessForProduct(const void* pointer, size_t bytes, int thread) {
  const std::string wrong = Access(pointer, bytes, Kind::kRead, thread);
  if (!wrong.empty()) return wrong;
  const size_t first = (At(pointer) - begin_) / kGranule;
  for (size_t i = first; i < first + bytes / kGranule; ++i) {
    if (shadow_[i].write_order >= orders_at_barrier_[shadow_[i].writer])
      return "thread " + std::to_string(shadow_[i].writer) +
             " did not order its write for products";
  }
  return "";
}

std::string SharedMemory::AccessAtomically(const void* pointer, size_t bytes, int thread) {
  return Access(pointer, bytes, Kind::kAtomic, thread);
}

std::string SharedMemory::Access(const void* pointer, size_t bytes, Kind kind, int thread) {
  const int64_t offset = At(pointer) - begin_;
  if (offset < 0 || offset + bytes > bytes_) return "shared memory out of bounds";
  if (bytes == 1 && kind != Kind::kRead)
    return "single bytes of shared memory: the emulator tells accesses apart by two bytes";
  for (size_t i = offset / kGranule; i <= (offset + bytes - 1) / kGranule; ++i) {
    switch (Check(shadow_[i], kind, thread)) {
      case Fault::kInFlight:
        return "an asynchronous copy to these bytes is not finished";
      case Fault::kRaceWithWrite:
        return "races with the write of thread " + std::to_string(shadow_[i].writer);
      case Fault::kRaceWithRead:
        return "races with the read of thread " + std::to_string(shadow_[i].reader);
      case Fault::kNeverWritten:
        return "shared memory that was never written";
      case Fault::kNone:
        break;
    }
    if (kind == Kind::kRead) {
      RecordRead(shadow_[i], thread);
    } else {
      RecordWrite(shadow_[i], kind == Kind::kAtomic, thread);
    }
  }
  return "";
}

void SharedMemory::StartCopy(const void* pointer, size_t bytes) {
  const size_t first = (At(pointer) - begin_) / kGranule;
  for (size_t i = 0; i < bytes / kGranule; ++i) shadow_[first + i].in_flight = true;
}

void SharedMemory::FinishCopy(const void* pointer, size_t bytes, int thread) {
  const size_t first = (At(pointer) - begin_) / kGranule;
  for (size_t i = 0; i < bytes / kGranule; ++i) {
    shadow_[first + i].in_flight = false;
    RecordWrite(shadow_[first + i], /*atomic=*/false, thread);
  }
}

}  // namespace nibble::emulator

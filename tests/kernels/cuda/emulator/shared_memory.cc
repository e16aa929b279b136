#include "emulator/shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <span>

#include "kernels/check.h"

namespace nibble::emulator {
namespace {

constexpr size_t kPage = 4096, kAlignment = 1024, kMapBytes = 256 << 10, kGuardBytes = 64 * kPage;

}  // namespace

void Seen::Join(const Seen& other) {
  for (size_t i = 0; i < std::size(warps); ++i) warps[i] = std::max(warps[i], other.warps[i]);
  for (size_t i = 0; i < std::size(phases); ++i) phases[i] = std::max(phases[i], other.phases[i]);
}

SharedMemory::SharedMemory()
    : seen_(std::size(orders_)),
      shadow_(kMaxBytes / kGranule),
      read_times_(shadow_.size() * kMaxWarps) {
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
  barrier_time_ = ++time_;
  std::ranges::fill(seen_, Seen{});
  for (Shadow& shadow : shadow_) shadow.in_flight = shadow.bulk = false;
}

void SharedMemory::PassBarrier() {
  ++barrier_;
  barrier_time_ = ++time_;
  std::ranges::copy(orders_, orders_at_barrier_);
  Seen all;
  for (const Seen& seen : seen_) all.Join(seen);
  std::ranges::fill(seen_, all);
}

void SharedMemory::PassWarpSync(int warp) {
  warp_syncs_[warp] = ++time_;
  const auto lanes = std::span(seen_).subspan(static_cast<size_t>(warp) * 32, 32);
  Seen all;
  for (const Seen& seen : lanes) all.Join(seen);
  std::ranges::fill(lanes, all);
}

Seen SharedMemory::SeenWhenArriving(int thread) const {
  Seen seen = seen_[thread];
  seen.warps[thread / 32] = std::max(seen.warps[thread / 32], warp_syncs_[thread / 32]);
  return seen;
}

bool SharedMemory::Owns(const void* pointer) const {
  return static_cast<size_t>(At(pointer) - map_) < kMapBytes + kGuardBytes;
}

bool SharedMemory::ReadsAreOrdered(const Shadow& shadow, int thread) const {
  if (shadow.read_barrier < barrier_) return true;  // none since the last barrier
  if (shadow.readers == Readers::kOne && shadow.reader == thread) return true;
  for (int warp = 0; warp < kMaxWarps; ++warp) {
    const uint32_t time = ReadTime(shadow, warp);
    const bool ordered = time < barrier_time_ || time < seen_[thread].warps[warp] ||
                         (warp == thread / 32 && time < warp_syncs_[warp]);
    if (!ordered) return false;
  }
  return true;
}

bool SharedMemory::WriteIsOrdered(const Shadow& shadow, Kind kind, int thread) const {
  if (shadow.write_barrier < first_barrier_) return true;  // another block's
  return shadow.writer == thread || shadow.write_barrier < barrier_ ||
         (kind == Kind::kAtomic && shadow.atomic) ||
         (shadow.writer / 32 == thread / 32 && shadow.write_sync < warp_syncs_[thread / 32]);
}

SharedMemory::Fault SharedMemory::Check(const Shadow& shadow, Kind kind, int thread) const {
  if (shadow.in_flight) return Fault::kInFlight;
  if (shadow.bulk) {
    if (seen_[thread].phases[shadow.bulk_barrier] <= shadow.bulk_phase) return Fault::kPhaseNotSeen;
  } else if (!WriteIsOrdered(shadow, kind, thread)) {
    return Fault::kRaceWithWrite;
  }
  if (kind != Kind::kRead && !ReadsAreOrdered(shadow, thread)) return Fault::kRaceWithRead;
  const bool written = shadow.write_barrier >= first_barrier_;
  return kind != Kind::kWrite && !written ? Fault::kNeverWritten : Fault::kNone;
}

void SharedMemory::RecordRead(Shadow& shadow, int thread) {
  ReadTime(shadow, thread / 32) = time_;
  if (shadow.read_barrier < barrier_) {
    shadow.readers = Readers::kOne;
  } else if (shadow.readers == Readers::kMany || shadow.reader / 32 != thread / 32) {
    shadow.readers = Readers::kMany;
  } else if (shadow.read_sync < warp_syncs_[thread / 32]) {
    shadow.readers =
        Readers::kOne;  // a writer of another warp races with this read as with the older ones
  } else if (shadow.reader != thread) {
    shadow.readers = Readers::kWarp;
  }
  shadow.reader = static_cast<uint16_t>(thread);
  shadow.read_barrier = barrier_;
  shadow.read_sync = time_;
}

void SharedMemory::RecordWrite(Shadow& shadow, bool atomic, int thread) {
  // A write of this thread that other threads' atomics race with is not forgotten for its own.
  const bool is_new = shadow.write_barrier < barrier_;
  shadow.atomic = atomic && (shadow.atomic || is_new || shadow.writer != thread);
  shadow.writer = static_cast<uint16_t>(thread);
  shadow.write_barrier = barrier_;
  shadow.write_sync = time_;
  shadow.write_order = orders_[thread];
  shadow.read_barrier = 0;
  shadow.bulk = false;
}

std::string SharedMemory::Access(const void* pointer, size_t bytes, bool write, int thread) {
  return Access(pointer, bytes, write ? Kind::kWrite : Kind::kRead, thread);
}

std::string SharedMemory::AccessForProduct(const void* pointer, size_t bytes, int thread) {
  const std::string wrong = Access(pointer, bytes, Kind::kRead, thread);
  if (!wrong.empty()) return wrong;
  const size_t first = (At(pointer) - begin_) / kGranule;
  for (size_t i = first; i < first + bytes / kGranule; ++i) {
    if (!shadow_[i].bulk && shadow_[i].write_order >= orders_at_barrier_[shadow_[i].writer])
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
      case Fault::kPhaseNotSeen:
        return "bytes of a bulk copy whose phase the thread has not waited for";
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

std::string SharedMemory::StartBulkCopy(const void* pointer, size_t bytes, int thread, int barrier,
                                        uint32_t phase) {
  const int64_t offset = At(pointer) - begin_;
  const size_t first = static_cast<size_t>(offset) / kGranule;
  if (offset >= 0 && offset + bytes <= bytes_) {
    for (size_t i = first; i < first + bytes / kGranule; ++i) {
      const Shadow& shadow = shadow_[i];
      if (!shadow.bulk && shadow.write_barrier >= first_barrier_ &&
          shadow.write_order >= orders_at_barrier_[shadow.writer])
        return "thread " + std::to_string(shadow.writer) + " did not order its write for copies";
    }
  }
  std::string wrong = Access(pointer, bytes, Kind::kWrite, thread);
  if (!wrong.empty()) return wrong;
  StartCopy(pointer, bytes);
  for (size_t i = first; i < first + bytes / kGranule; ++i) {
    shadow_[i].bulk = true;
    shadow_[i].bulk_barrier = static_cast<uint8_t>(barrier);
    shadow_[i].bulk_phase = phase;
  }
  return "";
}

void SharedMemory::FinishBulkCopy(const void* pointer, size_t bytes) {
  const size_t first = (At(pointer) - begin_) / kGranule;
  for (size_t i = 0; i < bytes / kGranule; ++i) shadow_[first + i].in_flight = false;
}

}  // namespace nibble::emulator

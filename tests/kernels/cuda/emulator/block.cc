#include "emulator/block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "emulator/fiber.h"
#include "emulator/gpu.h"
#include "kernels/check.h"

namespace nibble::emulator {
namespace {

constexpr size_t kStackBytes = 128 << 10, kPage = 4096;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

std::string PlaceName(const Location& where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return std::string(slash == nullptr ? where.file_name() : slash + 1) + ":" +
         std::to_string(where.line());
}

bool SamePlace(const Location& a, const Location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0;
}

// Tells apart the places that instructions are called from, and these from addresses of code.
uintptr_t SiteOf(const Location& where) {
  return reinterpret_cast<uintptr_t>(where.file_name()) ^ uintptr_t { where.line() } << 48 ^
         uintptr_t { where.column() } << 40;
}

}  // namespace

Block::Block(GlobalMemory& memory, Counts& counts) : memory_(memory), counts_(counts) {
  void* stacks = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NIBBLE_CHECK(stacks != MAP_FAILED);
  stacks_ = static_cast<uint8_t*>(stacks);
  for (int i = 0; i < kMaxThreads; ++i)
    NIBBLE_CHECK(mprotect(stacks_ + i * kStackBytes, kPage, PROT_NONE) == 0);
}

Block::~Block() { munmap(stacks_, kMaxThreads * kStackBytes); }

std::string Block::Describe(const Thread& thread) const {
  const uint3 b = block_index_;
  return "block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," + std::to_string(b.z) +
         ") thread " + std::to_string(thread.id);
}

void Block::Fail(const std::string& what, const Location* where) {
  fault_ = Describe(*current_) + (where == nullptr ? "" : " at " + PlaceName(*where)) + ": " + what;
  void* dropped = nullptr;
  nibble_emulator_switch(&dropped, scheduler_);
  __builtin_unreachable();
}

// --- fibers

void Block::StartThread(int id) {
  Thread& thread = threads_[id];
  thread.id = id;
  thread.lane = id % 32;
  thread.warp = id / 32;
  const uint32_t i = static_cast<uint32_t>(id), x = block_dim_.x, y = block_dim_.y;
  thread.index = {i % x, i / x % y, i / (x * y)};
  thread.copies.resize(1);
  thread.stack_pointer = NewFiber(stacks_ + (id + 1) * kStackBytes, &ThreadMain);
  ready_.push_back(&thread);
}

Thread* Block::NextReady() {
  size_t pick = 0;
  if (random_ != 0) {
    random_ = random_ * 1664525u + 1013904223u;
    pick = (random_ >> 8) % ready_.size();
  }
  Thread* thread = ready_[pick];
  ready_.erase(ready_.begin() + static_cast<int64_t>(pick));
  return thread;
}

void Block::Yield() {
  Thread* me = current_;
  nibble_emulator_switch(&me->stack_pointer, scheduler_);
}

void Block::GiveWay(const char* waits_in, const Location& where) {
  current_->waits_in = waits_in;
  current_->waits_at = where;
  Yield();
}

void Block::ThreadMain() {
  Block& block = TheGpu().block();
  (*block.body_)();
  Thread& me = *block.current_;
  for (const auto& group : me.copies) {
    if (!group.empty()) block.Fail("exits with asynchronous copies that it never waited for");
  }
  const std::string open = block.warp_groups_.Open(me.warp);
  if (!open.empty()) block.Fail(open);
  if (!me.waited) block.Fail("exits a dependent launch without waiting for the launches before it");
  if (const Meeting& meeting = block.meetings_[me.warp]; meeting.arrived != 0) {
    block.Fail("exits while lanes of its warp wait in a collective", &meeting.where);
  }
  me.done = true;
  --block.live_;
  block.exited_[me.warp] |= 1u << me.lane;
  if (!block.at_barrier_.empty() && static_cast<int>(block.at_barrier_.size()) == block.live_)
    block.ReleaseBarrier();
  block.Yield();
  __builtin_unreachable();
}

std::string Block::Run(dim3 grid, dim3 block, uint3 block_index, size_t shared_bytes,
                       const std::function<void()>& body, uint32_t seed, bool dependent) {
  grid_dim_ = grid;
  block_dim_ = block;
  block_index_ = block_index;
  body_ = &body;
  random_ = seed;
  const int num_threads = static_cast<int>(block.x * block.y * block.z);
  NIBBLE_CHECK(num_threads % 32 == 0 && num_threads <= kMaxThreads);
  live_ = num_threads;
  fault_.clear();
  ready_.clear();
  at_barrier_.clear();
  at_phase_.clear();
  meetings_.assign(num_threads / 32, {});
  exited_.assign(num_threads / 32, 0);
  logs_.resize(num_threads / 32);
  threads_.assign(num_threads, {});
  memory_.StartBlock();
  shared_.StartBlock(shared_bytes);
  warp_groups_.StartBlock(num_threads / 32);
  bulk_copies_.StartBlock();
  for (int id = 0; id < num_threads; ++id) {
    StartThread(id);
    threads_[id].waited = !dependent;
  }
  while (fault_.empty() && (!ready_.empty() || bulk_copies_.has_open())) {
    if (ready_.empty()) {
      const std::string wrong = bulk_copies_.FinishOne();
      if (!wrong.empty()) fault_ = Describe(*current_) + ": " + wrong;
      continue;
    }
    current_ = NextReady();
    nibble_emulator_switch(&scheduler_, current_->stack_pointer);
    if (live_ == 0) break;
  }
  current_ = nullptr;
  for (const Thread& thread : threads_) {
    if (fault_.empty() && !thread.done) {
      fault_ = Describe(thread) + " at " + PlaceName(thread.waits_at) + ": waits for ever in a " +
               thread.waits_in;
    }
  }
  if (const std::string unlike = warp_groups_.Unlike(); fault_.empty() && !unlike.empty())
    fault_ = Describe(threads_[0]) + ": " + unlike;
  if (const std::string open = bulk_copies_.Open(); fault_.empty() && !open.empty())
    fault_ = Describe(threads_[0]) + ": " + open;
  for (WarpLog& log : logs_) log.Flush(counts_);
  uint64_t in_flight = 0;
  for (const Thread& thread : threads_) in_flight += thread.most_in_flight;
  counts_.bytes_in_flight = std::max(counts_.bytes_in_flight, in_flight);
  ++counts_.blocks;
  return fault_;
}

// --- meeting

void Block::Collective(void* argument, Execute execute, const Location& where) {
  Thread& me = *current_;
  Meeting& meeting = meetings_[me.warp];
  if (exited_[me.warp] != 0) Fail("a collective waits for a lane that has exited", &where);
  if (meeting.arrived == 0) {
    meeting.execute = execute;
    meeting.where = where;
  } else if (meeting.execute != execute || !SamePlace(meeting.where, where)) {
    Fail("divergent collective: other lanes of the warp are at " + PlaceName(meeting.where),
         &where);
  }
  meeting.arrived |= 1u << me.lane;
  meeting.arguments[me.lane] = argument;
  if (meeting.arrived != kAllLanes) {
    GiveWay("warp collective", where);
    return;
  }
  meeting.arrived = 0;
  logs_[me.warp].Flush(counts_);
  execute(meeting.arguments);
  for (int lane = 0; lane < 32; ++lane) {
    if (lane != me.lane) ready_.push_back(&threads_[me.warp * 32 + lane]);
  }
}

void Block::WarpSync(const Location& where) {
  Collective(
      this,
      [](void* const* arguments) {
        auto* block = static_cast<Block*>(arguments[0]);
        block->shared_.PassWarpSync(block->current_->warp);
      },
      where);
}

void Block::Barrier(const Location& where) {
  if (at_barrier_.empty()) {
    barrier_where_ = where;
  } else if (!SamePlace(barrier_where_, where)) {
    Fail("divergent barrier: other threads wait at " + PlaceName(barrier_where_), &where);
  }
  at_barrier_.push_back(current_);
  if (static_cast<int>(at_barrier_.size()) < live_) {
    GiveWay("barrier", where);
    return;
  }
  std::erase(at_barrier_, current_);
  ReleaseBarrier();
}

void Block::ReleaseBarrier() {
  shared_.PassBarrier();
  ++counts_.barriers;
  for (WarpLog& log : logs_) log.Flush(counts_);
  ready_.insert(ready_.end(), at_barrier_.begin(), at_barrier_.end());
  at_barrier_.clear();
}

void Block::WaitPhase(uint32_t barrier, uint32_t parity, const Location& where) {
  while (!bulk_copies_.HasEnded(barrier, parity, where)) {
    at_phase_.push_back(current_);
    GiveWay("phase", where);
  }
}

void Block::WakeWaiting() {
  ready_.insert(ready_.end(), at_phase_.begin(), at_phase_.end());
  at_phase_.clear();
}

// --- memory

void Block::Log(int thread, uintptr_t site, const void* pointer, int bytes, WarpLog::Kind kind) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const uint64_t at = kind == WarpLog::Kind::kShared
                          ? address - reinterpret_cast<uintptr_t>(shared_.data())
                          : address;
  logs_[thread / 32].Add(thread % 32, site, at, bytes, kind);
  if (kind == WarpLog::Kind::kGlobalRead && !threads_[thread].waited) {
    counts_.early_read_bytes += static_cast<uint64_t>(bytes);
  }
}

uint8_t* Block::SharedPointer(uint32_t address, int bytes, const Location& where) {
  if (address % bytes != 0) Fail("misaligned shared address", &where);
  return shared_.FromAddress(address);
}

void Block::Access(const void* pointer, int bytes, bool write, int lane, const Location& where) {
  if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0) {
    Fail("misaligned access of " + std::to_string(bytes) + " bytes", &where);
  }
  const int thread = current_->warp * 32 + lane;
  if (shared_.Owns(pointer)) {
    const std::string wrong = shared_.Access(pointer, bytes, write, thread);
    if (!wrong.empty()) Fail((write ? "write: " : "read: ") + wrong, &where);
    Log(thread, SiteOf(where), pointer, bytes, WarpLog::Kind::kShared);
    return;
  }
  if (!memory_.Owns(pointer)) Fail("the address is not the device's", &where);
  if (const char* wrong = memory_.Access(pointer, bytes, write, current_->waited))
    Fail((write ? "write: " : "read: ") + std::string(wrong), &where);
  Log(thread, SiteOf(where), pointer, bytes,
      write ? WarpLog::Kind::kGlobalWrite : WarpLog::Kind::kGlobalRead);
}

uint4 Block::Load16(const void* from, const Location& where) {
  Access(from, 16, false, current_->lane, where);
  uint4 value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

uint2 Block::Load8(const void* from, const Location& where) {
  Access(from, 8, false, current_->lane, where);
  uint2 value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void Block::Store16(void* to, uint4 value, const Location& where) {
  Access(to, 16, true, current_->lane, where);
  std::memcpy(to, &value, sizeof value);
}

void Block::Store8(void* to, uint2 value, const Location& where) {
  Access(to, 8, true, current_->lane, where);
  std::memcpy(to, &value, sizeof value);
}

void Block::Touch(const void* pointer, size_t bytes, bool write, bool aligned, uintptr_t site) {
  const bool shared = shared_.Owns(pointer);
  if (!shared && !memory_.Owns(pointer)) return;  // the fiber's own stack, a constant
  const auto fail = [&](const std::string& what) {
    char place[40];
    std::snprintf(place, sizeof place, ", code %#zx", site);
    Fail((write ? "write of " : "read of ") + std::to_string(bytes) + " bytes: " + what + place);
  };
  if (aligned && reinterpret_cast<uintptr_t>(pointer) % bytes != 0) fail("misaligned");
  const int thread = current_->id;
  if (shared) {
    const std::string wrong = shared_.Access(pointer, bytes, write, thread);
    if (!wrong.empty()) fail(wrong);
    Log(thread, site, pointer, static_cast<int>(bytes), WarpLog::Kind::kShared);
    return;
  }
  if (const char* wrong = memory_.Access(pointer, bytes, write, current_->waited)) fail(wrong);
  Log(thread, site, pointer, static_cast<int>(bytes),
      write ? WarpLog::Kind::kGlobalWrite : WarpLog::Kind::kGlobalRead);
}

uint32_t Block::AtomicAdd(uint32_t* counter, uint32_t value, const Location& where) {
  if (!memory_.Owns(counter) || !memory_.IsLive(counter, sizeof *counter))
    Fail("atomic out of bounds", &where);
  if (!current_->waited) Fail("atomic before the wait for the launches before this one", &where);
  if (!memory_.IsWritten(counter, sizeof *counter))
    Fail("atomic on memory that was never written", &where);
  memory_.Atomic(counter);
  ++counts_.atomics;
  return std::exchange(*counter, *counter + value);
}

uint32_t Block::AtomicAddShared(uint32_t address, uint32_t value, const Location& where) {
  auto* counter = reinterpret_cast<uint32_t*>(SharedPointer(address, sizeof(uint32_t), where));
  const std::string wrong = shared_.AccessAtomically(counter, sizeof *counter, current_->id);
  if (!wrong.empty()) Fail("atomic: " + wrong, &where);
  ++counts_.shared_atomics;
  return std::exchange(*counter, *counter + value);
}

// --- asynchronous copies: the bytes arrive as late as the rules allow, in the wait; until then
// they are NaNs

void Block::StartCopy(uint32_t to, const void* from, int bytes, int valid_bytes,
                      const Location& where) {
  uint8_t* target = SharedPointer(to, bytes, where);
  if (reinterpret_cast<uintptr_t>(from) % bytes != 0) Fail("misaligned source of a copy", &where);
  if (!memory_.Owns(from)) Fail("the source of a copy is not the device's", &where);
  const std::string wrong = shared_.Access(target, bytes, true, current_->id);
  if (!wrong.empty()) Fail("asynchronous copy: " + wrong, &where);
  Log(current_->id, SiteOf(where), target, bytes, WarpLog::Kind::kShared);
  if (valid_bytes > 0) {
    if (const char* unreadable = memory_.Access(from, valid_bytes, false, current_->waited))
      Fail("asynchronous copy: " + std::string(unreadable), &where);
  }
  Log(current_->id, SiteOf(where) + 1, from, valid_bytes, WarpLog::Kind::kGlobalRead);
  shared_.StartCopy(target, bytes);
  std::memset(target, 0xFF, bytes);
  current_->copies.back().push_back(
      {target, static_cast<const uint8_t*>(from), bytes, valid_bytes});
  current_->bytes_in_flight += valid_bytes;
  current_->most_in_flight = std::max(current_->most_in_flight, current_->bytes_in_flight);
}

void Block::ReadForCopy(const uint8_t* from, int bytes, const Location& where) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) Fail("misaligned source of a copy", &where);
  if (!memory_.Owns(from)) Fail("the source of a copy is not the device's", &where);
  if (const char* unreadable = memory_.Access(from, bytes, false, current_->waited))
    Fail("bulk copy: " + std::string(unreadable), &where);
  Log(current_->id, SiteOf(where), from, bytes, WarpLog::Kind::kGlobalRead);
}

void Block::CountInFlight(int thread, int bytes) {
  Thread& of = threads_[thread];
  of.bytes_in_flight += static_cast<uint64_t>(int64_t{bytes});
  of.most_in_flight = std::max(of.most_in_flight, of.bytes_in_flight);
}

void Block::CommitCopies() { current_->copies.emplace_back(); }

void Block::WaitCopies(int pending) {
  auto& groups = current_->copies;
  while (static_cast<int>(groups.size()) - 1 > pending) {
    for (const Copy& copy : groups.front()) {
      std::memset(copy.to, 0, copy.bytes);
      std::memcpy(copy.to, copy.from, copy.valid_bytes);
      shared_.FinishCopy(copy.to, copy.bytes, current_->id);
      current_->bytes_in_flight -= copy.valid_bytes;
    }
    groups.erase(groups.begin());
  }
}

}  // namespace nibble::emulator

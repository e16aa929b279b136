// The thread block that runs: each of its threads is a fiber of one OS thread. A fiber gives way
// only at collectives and barriers, in an order that a seed shuffles.
//
// Faults: a collective that lanes reach at different places of the code, or that waits for a lane
// that has exited; a barrier reached at different places; threads that wait for ever; asynchronous
// copies still open at the exit; the exit of a dependent launch that never waited; every fault of
// the two memories. A fault ends the block at once: its fibers are dropped, so kernels own nothing.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

#include "emulator/bulk_copies.h"
#include "emulator/counters.h"
#include "emulator/global_memory.h"
#include "emulator/shared_memory.h"
#include "emulator/warp_group.h"

namespace nibble::emulator {

using Location = std::source_location;

struct Copy {
  uint8_t* to;
  const uint8_t* from;
  int bytes, valid_bytes;
};

struct Thread {
  void* stack_pointer = nullptr;
  uint3 index = {};
  int id = 0, lane = 0, warp = 0;
  bool done = false;
  bool waited = true;  // for the launches before this one, where it is a dependent one
  const char* waits_in = nullptr;
  Location waits_at;
  std::vector<std::vector<Copy>> copies;  // groups, oldest first; the last one is open
  uint64_t bytes_in_flight = 0, most_in_flight = 0;
};

// Runs a collective for the whole warp once all lanes are there: arguments[lane] is what each one
// passed.
using Execute = void (*)(void* const* arguments);

class Block {
 public:
  static constexpr int kMaxThreads = 1024;

  Block(GlobalMemory& memory, Counts& counts);
  Block(const Block&) = delete;
  ~Block();

  // REQUIRES a whole number of warps. Empty, or the fault with its block, thread and place.
  std::string Run(dim3 grid, dim3 block, uint3 block_index, size_t shared_bytes,
                  const std::function<void()>& body, uint32_t seed, bool dependent);

  // --- what the running thread calls
  const Thread& thread() const { return *current_; }
  uint3 block_index() const { return block_index_; }
  dim3 block_dim() const { return block_dim_; }
  dim3 grid_dim() const { return grid_dim_; }
  SharedMemory& shared() { return shared_; }
  WarpGroups& warp_groups() { return warp_groups_; }
  BulkCopies& bulk_copies() { return bulk_copies_; }
  Counts& counts() { return counts_; }
  bool running() const { return current_ != nullptr; }
  [[noreturn]] void Fail(const std::string& what, const Location* where = nullptr);

  void Collective(void* argument, Execute execute, const Location& where);
  void WarpSync(const Location& where);
  void Barrier(const Location& where);
  void Fence() { memory_.Fence(); }
  void WaitForLaunches() { current_->waited = true; }
  uint32_t AtomicAdd(uint32_t* counter, uint32_t value, const Location& where);
  uint32_t AtomicAddShared(uint32_t address, uint32_t value, const Location& where);
  void StartCopy(uint32_t to, const void* from, int bytes, int valid_bytes, const Location& where);
  void CommitCopies();
  void WaitCopies(int pending);
  // Of a barrier in shared memory.
  void WaitPhase(uint32_t barrier, uint32_t parity, const Location& where);
  void WakeWaiting();  // for a phase: to look again
  // What a bulk copy of the running thread reads, and has open from now on.
  void ReadForCopy(const uint8_t* from, int bytes, const Location& where);
  void CountInFlight(int thread, int bytes);
  // An access that an instruction of its own makes for `lane` of the running warp; `bytes`-aligned.
  void Access(const void* pointer, int bytes, bool write, int lane, const Location& where);
  // By the running thread: out of line, for inlined into a kernel they would be reported once more.
  uint4 Load16(const void* from, const Location& where);
  uint2 Load8(const void* from, const Location& where);
  void Store16(void* to, uint4 value, const Location& where);
  void Store8(void* to, uint2 value, const Location& where);
  uint8_t* SharedPointer(uint32_t address, int bytes, const Location& where);
  // An ordinary load or store, told by the compiler's instrumentation; ignored where it is neither
  // shared nor global.
  void Touch(const void* pointer, size_t bytes, bool write, bool aligned, uintptr_t site);

 private:
  struct Meeting {  // of a warp's lanes
    uint32_t arrived = 0;
    Execute execute = nullptr;
    Location where;
    void* arguments[32] = {};
  };
  static void ThreadMain();
  void StartThread(int id);
  void Yield();
  void GiveWay(const char* waits_in, const Location& where);
  Thread* NextReady();
  void ReleaseBarrier();
  void Log(int thread, uintptr_t site, const void* pointer, int bytes, WarpLog::Kind kind);
  std::string Describe(const Thread& thread) const;

  GlobalMemory& memory_;
  Counts& counts_;
  SharedMemory shared_;
  WarpGroups warp_groups_{*this};
  BulkCopies bulk_copies_{*this};
  uint8_t* stacks_ = nullptr;
  void* scheduler_ = nullptr;  // its stack pointer while a fiber runs
  const std::function<void()>* body_ = nullptr;

  dim3 grid_dim_, block_dim_;
  uint3 block_index_ = {};
  std::vector<Thread> threads_;
  Thread* current_ = nullptr;
  std::vector<Thread*> ready_;
  uint32_t random_ = 0;  // 0: in order
  int live_ = 0;
  std::vector<Meeting> meetings_;  // of each warp
  std::vector<uint32_t> exited_;   // lanes of each warp
  std::vector<WarpLog> logs_;
  std::vector<Thread*> at_barrier_;
  std::vector<Thread*> at_phase_;
  Location barrier_where_;
  std::string fault_;
};

}  // namespace nibble::emulator

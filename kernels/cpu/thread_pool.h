// The threads that run the parts of an op, and a barrier at its end. Persistent: started once,
// asleep when idle.
//
// Parts are claimed, not assigned: a thread that the machine has given away to another process, or
// that is still waking up, delays nobody, because the others (the caller among them) take its
// parts. Ops must therefore make the result of a part independent of who runs it, which the
// batch-invariance contract of ops.h asks for anyway.
//
// Cost on an idle machine: under a microsecond a Run while the workers spin. A worker that sees no
// work for about 50 us sleeps on a condition variable and costs nothing; waking it costs the caller
// a system call.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace nibble {

class ThreadPool {
 public:
  // REQUIRES: 1 <= num_threads <= 256. The caller of Run counts as one, so num_threads - 1 are
  // started; fewer when the system refuses one (size() says), which slows ops down and changes no
  // result.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls fn(part) once for every part in 0 .. num_parts - 1, on this thread and the workers, in no
  // fixed order; returns when all are done. What they wrote is then visible here. Two or three
  // parts a thread hide a slow one. REQUIRES: one caller at a time, not from within a part;
  // num_parts <= 65535.
  void Run(int num_parts, absl::FunctionRef<void(int part)> fn);

  // As above with size() parts, each told how many there are: for a static split of rows.
  void Run(absl::FunctionRef<void(int part, int num_parts)> fn) {
    const int num_parts = size();
    Run(num_parts, [&](int part) { fn(part, num_parts); });
  }

  // Workers asleep now: all size() - 1 of them once no Run has happened for a while. For tests and
  // logs.
  int num_sleeping() const { return num_sleeping_.load(std::memory_order_relaxed); }

 private:
  using PartFunction = absl::FunctionRef<void(int part)>;

  void WorkerLoop();
  bool HasWork() const;
  bool SpinForWork() const;
  void ClaimParts();
  void WakeWorkers();
  void WaitForParts();

  // The job: written by Run before ticket_ is, read by a thread that has claimed a part of it.
  const PartFunction* job_ = nullptr;
  // next part (high 32 bits) and number of parts (low 32 bits) of the job; equal when nothing is
  // left to claim.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> unfinished_{0};  // parts of the job not yet done
  alignas(64) std::atomic<int> num_sleeping_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards the sleeping only; the work itself is lock-free
  std::condition_variable work_added_;
  std::condition_variable parts_done_;
  std::vector<std::thread> workers_;
};

}  // namespace nibble

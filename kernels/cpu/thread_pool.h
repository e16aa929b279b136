// The threads that run the parts of an op, and a barrier at its end. Persistent: started once,
// asleep when idle.
//
// Parts are claimed, not assigned: a thread that the machine has given away to another process, or
// that is still waking up, delays nobody, because the others (the caller among them) take its
// parts. Ops must therefore make the result of a part independent of who runs it, which the
// batch-invariance contract of ops.h asks for anyway.
//
// Each thread has a run of neighbouring parts, which it claims first, and then those that others
// have left: ops that share out the same rows find in a thread's cache what it wrote of them in the
// op before. Of more than kRunsPerNode threads several have a run together. On several NUMA nodes
// (numa.h) a node's runs are neighbours, and its threads turn to them before those of other nodes.
//
// Cost on an idle machine: under a microsecond a Run while the workers spin. A worker that sees no
// work for about 50 us sleeps on a condition variable and costs nothing; waking it costs the caller
// a system call.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/cpu/numa.h"

namespace nibble {

namespace cpu {

// Between two looks at what another thread is about to write.
inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Returns when `done` is true, which another thread is about to make it: awake for about 50 us,
// then giving way, for whoever is waited for may need this core.
template <typename Condition>
void WaitUntil(Condition done) {
  constexpr int kSpins = 4096;
  for (int i = 0; !done(); ++i) {
    if (i < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace cpu

class ThreadPool {
 public:
  // REQUIRES: 1 <= num_threads <= 256. The caller of Run counts as one, so num_threads - 1 are
  // started; fewer when the system refuses one (size() says), which slows ops down and changes no
  // result. Workers are kept on the nodes of `placement`, which is for as many threads; the caller
  // is left where it is.
  explicit ThreadPool(int num_threads, cpu::NumaPlacement placement = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }
  // NUMA nodes that the threads are on; one where the machine does not tell.
  int num_nodes() const { return placement_.num_nodes(); }

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

  // Each is a cache line that the caller writes and waits for at every Run.
  static constexpr int kRunsPerNode = 8;

  // A run: the parts of a job that some threads claim first.
  struct alignas(64) Ticket {
    // next part (high 32 bits) and one past the last (low 32 bits); equal when nothing is left.
    std::atomic<uint64_t> parts{0};
  };

  void WorkerLoop(int thread);
  // Those of run `run` of the node first.
  void ClaimParts(int node, int run);
  void ClaimFrom(Ticket& run);
  void WakeWorkers();
  void WaitForParts();

  const bool crowded_;  // more threads than cores: waiting yields
  const cpu::NumaPlacement placement_;
  // The job: written by Run before the tickets are, read by a thread that has claimed a part of it.
  const PartFunction* job_ = nullptr;
  const int runs_per_node_;
  const std::unique_ptr<Ticket[]> tickets_;  // one a run, node after node
  // What workers wait for: changed once all tickets are there, so that each begins with its own.
  alignas(64) std::atomic<uint64_t> job_number_{0};
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

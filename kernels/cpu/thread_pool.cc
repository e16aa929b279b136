#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "kernels/check.h"

namespace nibble {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kMaxParts = 65535;
// Longer than the gaps between the ops of a step (a few us), shorter than what a scheduler would
// notice.
constexpr std::chrono::microseconds kSpinTime{50};
constexpr int kPausesPerClockRead = 32;

// True as soon as `done` is, false after kSpinTime. `crowded`: there are more threads than cores,
// so whoever is waited for may be waiting for this core.
template <typename Condition>
bool SpinUntil(bool crowded, Condition done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      if (crowded) {
        std::this_thread::yield();
      } else {
        cpu::Pause();
      }
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

constexpr uint64_t kOnePart = uint64_t{1} << 32;
constexpr uint32_t NextPart(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 32); }
constexpr uint32_t EndPart(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

ThreadPool::ThreadPool(int num_threads, cpu::NumaPlacement placement)
    : crowded_(num_threads > static_cast<int>(std::thread::hardware_concurrency())),
      placement_(std::move(placement)),
      runs_per_node_(std::clamp(num_threads / placement_.num_nodes(), 1, kRunsPerNode)),
      tickets_(new Ticket[placement_.num_nodes() * runs_per_node_]) {
  NIBBLE_CHECK(num_threads >= 1 && num_threads <= kMaxThreads);
  workers_.reserve(num_threads - 1);
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
  } catch (const std::system_error&) {
    // The process is at its thread limit: run with those that started.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  work_added_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int num_parts, absl::FunctionRef<void(int part)> fn) {
  NIBBLE_CHECK(num_parts >= 0 && num_parts <= kMaxParts);
  if (num_parts <= 1 || workers_.empty()) {
    for (int part = 0; part < num_parts; ++part) fn(part);
    return;
  }
  job_ = &fn;
  unfinished_.store(num_parts, std::memory_order_relaxed);
  for (int node = 0; node < placement_.num_nodes(); ++node) {
    const auto first = static_cast<uint64_t>(placement_.FirstPart(node, num_parts));
    const auto end = static_cast<uint64_t>(placement_.FirstPart(node + 1, num_parts));
    for (int run = 0; run < runs_per_node_; ++run) {
      const uint64_t begin = first + (end - first) * run / runs_per_node_;
      const uint64_t run_end = first + (end - first) * (run + 1) / runs_per_node_;
      tickets_[node * runs_per_node_ + run].parts.store(begin << 32 | run_end,
                                                        std::memory_order_seq_cst);
    }
  }
  job_number_.fetch_add(1, std::memory_order_seq_cst);
  WakeWorkers();
  ClaimParts(placement_.NodeOfCaller(), 0);
  WaitForParts();
}

// Either this load sees a worker that is about to sleep, or that worker's last look at the job's
// number sees the new one: both sides write first and read second, sequentially consistent.
void ThreadPool::WakeWorkers() {
  if (num_sleeping_.load(std::memory_order_seq_cst) == 0) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
  }
  work_added_.notify_all();
}

void ThreadPool::ClaimParts(int node, int run) {
  const int num_nodes = placement_.num_nodes();
  for (int n = 0; n < num_nodes; ++n) {
    Ticket* const of_node = &tickets_[(node + n) % num_nodes * runs_per_node_];
    for (int r = 0; r < runs_per_node_; ++r) ClaimFrom(of_node[(run + r) % runs_per_node_]);
  }
}

// A claim that succeeds keeps its job alive: Run cannot return before the part is done, so job_ is
// that job's.
void ThreadPool::ClaimFrom(Ticket& run) {
  std::atomic<uint64_t>& parts = run.parts;
  uint64_t ticket = parts.load(std::memory_order_acquire);
  while (NextPart(ticket) < EndPart(ticket)) {
    if (!parts.compare_exchange_weak(ticket, ticket + kOnePart, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      continue;
    }
    (*job_)(static_cast<int>(NextPart(ticket)));
    if (unfinished_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        caller_sleeps_.load(std::memory_order_seq_cst)) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      parts_done_.notify_one();
    }
    ticket = parts.load(std::memory_order_acquire);
  }
}

void ThreadPool::WaitForParts() {
  const auto done = [this] { return unfinished_.load(std::memory_order_seq_cst) == 0; };
  if (SpinUntil(crowded_, done)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_.store(true, std::memory_order_seq_cst);
  parts_done_.wait(lock, done);
  caller_sleeps_.store(false, std::memory_order_relaxed);
}

void ThreadPool::WorkerLoop(int thread) {
  placement_.Settle(thread);
  const int node = placement_.NodeOfThread(thread);
  uint64_t seen = 0;
  const auto called = [this, &seen] {
    return job_number_.load(std::memory_order_seq_cst) != seen ||
           stop_.load(std::memory_order_relaxed);
  };
  while (!stop_.load(std::memory_order_relaxed)) {
    if (!SpinUntil(crowded_, called)) {
      std::unique_lock<std::mutex> lock(mutex_);
      num_sleeping_.fetch_add(1, std::memory_order_seq_cst);
      work_added_.wait(lock, called);
      num_sleeping_.fetch_sub(1, std::memory_order_seq_cst);
    }
    seen = job_number_.load(std::memory_order_seq_cst);
    ClaimParts(node, thread % runs_per_node_);
  }
}

}  // namespace nibble

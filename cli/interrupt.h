// Ctrl-C of a subcommand that runs to an end: cancels what is going on, or leaves at once when
// nothing can be.
#pragma once

#include <atomic>
#include <functional>

#include "cli/signals.h"
#include "engine/base/mutex.h"

namespace nibble {

class Interrupt {
 public:
  // Create before any other thread (SignalWaiter). Until OnInterrupt a signal ends the process with
  // 128 + signal.
  Interrupt();

  // From now on the first signal calls `cancel`, on the signal thread; null: as before.
  void OnInterrupt(std::function<void()> cancel);
  bool seen() const;

 private:
  void Hear(int signal);

  mutable Mutex mutex_;
  bool seen_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> cancel_ ABSL_GUARDED_BY(mutex_);
  SignalWaiter waiter_;  // last: its thread uses the rest
};

// For work that has something to clean up: while this exists the first signal raises a flag that
// the work looks at. Afterwards a signal ends the process, as before, and Interrupt::seen() tells
// of one that came when the work had looked for the last time.
class Cancellation {
 public:
  explicit Cancellation(Interrupt& interrupt) : interrupt_(interrupt) {
    interrupt_.OnInterrupt([this] { flag_.store(true); });
  }
  ~Cancellation() { interrupt_.OnInterrupt(nullptr); }
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;

  const std::atomic<bool>& flag() const { return flag_; }

 private:
  Interrupt& interrupt_;
  std::atomic<bool> flag_{false};
};

}  // namespace nibble

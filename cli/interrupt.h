// Ctrl-C of a subcommand that runs to an end: cancels what is going on, or leaves at once when
// nothing can be.
#pragma once

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

}  // namespace nibble

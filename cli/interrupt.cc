#include "cli/interrupt.h"

#include <cstdlib>
#include <utility>

namespace nibble {

Interrupt::Interrupt() : waiter_([this](int signal) { Hear(signal); }) {}

void Interrupt::OnInterrupt(std::function<void()> cancel) {
  MutexLock lock(mutex_);
  cancel_ = std::move(cancel);
}

bool Interrupt::seen() const {
  MutexLock lock(mutex_);
  return seen_;
}

void Interrupt::Hear(int signal) {
  // Held while cancelling, so that whoever resets `cancel_` knows it is not running any more.
  MutexLock lock(mutex_);
  if (!cancel_) std::_Exit(128 + signal);
  seen_ = true;
  cancel_();
}

}  // namespace nibble

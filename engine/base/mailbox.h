// The one way into the engine thread: any thread posts, one thread takes everything at once.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace nibble {

template <typename T>
class Mailbox {
 public:
  // Unbounded on purpose: what is posted was admitted and counted before (server admission).
  void Post(T item) {
    MutexLock lock(mutex_);
    items_.push_back(std::move(item));
    arrived_.NotifyOne();
  }

  // Everything posted since the last call, in order; empty when nothing was. Never waits.
  std::vector<T> Take() {
    MutexLock lock(mutex_);
    return std::exchange(items_, {});
  }

  // Waits until something is posted, or until `deadline` when one is given.
  void Wait(std::optional<Instant> deadline) {
    MutexLock lock(mutex_);
    while (items_.empty()) {
      if (!deadline.has_value()) {
        arrived_.Wait(mutex_);
      } else if (!arrived_.WaitUntil(mutex_, *deadline)) {
        return;
      }
    }
  }

 private:
  Mutex mutex_;
  CondVar arrived_;
  std::vector<T> items_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble

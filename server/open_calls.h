// The calls that are open, so that one whose client no longer takes anything can be cut off: a
// client that neither reads nor leaves would hold its place and its answer for ever.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace nibble {

class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Drops the call when what was given to its transport has been there, untaken, since `since`.
  // True when it did. Any thread.
  virtual bool AbortIfStuckSince(Instant since) = 0;
};

class OpenCalls {
 public:
  void Add(std::weak_ptr<OpenCall> call) {
    MutexLock lock(mutex_);
    calls_.push_back(std::move(call));
  }

  // Forgets those that ended, and returns how many it aborted.
  int AbortStuckSince(Instant since) {
    std::vector<std::shared_ptr<OpenCall>> alive;
    {
      MutexLock lock(mutex_);
      for (const auto& weak : calls_) {
        if (auto call = weak.lock()) alive.push_back(std::move(call));
      }
      calls_.assign(alive.begin(), alive.end());
    }
    int aborted = 0;
    for (const auto& call : alive) aborted += call->AbortIfStuckSince(since) ? 1 : 0;
    return aborted;
  }

 private:
  Mutex mutex_;
  std::vector<std::weak_ptr<OpenCall>> calls_ ABSL_GUARDED_BY(mutex_);
};

// A unary call's answer on its way to a client that may not read it. The reactor makes one, adds it
// to the open calls, and tells it when the answer goes out and when gRPC is done with the call.
class UnaryAnswer final : public OpenCall {
 public:
  // `abort` cancels the call; it is not called once Gone has returned.
  explicit UnaryAnswer(std::function<void()> abort) : abort_(std::move(abort)) {}

  // Before the reactor's Finish: afterwards gRPC may be done with the call at any moment.
  void Sending(Instant now) {
    MutexLock lock(mutex_);
    sending_since_ = now;
  }
  void Gone() {
    MutexLock lock(mutex_);
    abort_ = nullptr;
  }

  bool AbortIfStuckSince(Instant since) override {
    MutexLock lock(mutex_);
    if (abort_ == nullptr || !sending_since_.has_value() || *sending_since_ > since) return false;
    // Under the lock, or Gone might come between; it only marks the call.
    std::exchange(abort_, nullptr)();
    return true;
  }

 private:
  Mutex mutex_;
  std::function<void()> abort_ ABSL_GUARDED_BY(mutex_);
  std::optional<Instant> sending_since_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble

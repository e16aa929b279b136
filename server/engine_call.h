// One submitted request as its transport sees it: something to cancel and to resume. A client may
// leave before Submit has returned the id; the cancellation is kept until then.
#pragma once

#include <optional>

#include "engine/base/mutex.h"
#include "engine/engine.h"

namespace nibble {

class EngineCall {
 public:
  explicit EngineCall(Engine* engine) : engine_(engine) {}

  // The id is known: from Submit or from OnStarted, whichever comes first.
  void SetId(RequestId id) {
    bool cancel = false;
    {
      MutexLock lock(mutex_);
      if (id_.has_value()) return;
      id_ = id;
      cancel = cancel_;
    }
    if (cancel) engine_->Cancel(id);
  }

  void Cancel() {
    std::optional<RequestId> id;
    {
      MutexLock lock(mutex_);
      cancel_ = true;
      id = id_;
    }
    // Outside the lock: an engine may answer at once.
    if (id.has_value()) engine_->Cancel(*id);
  }

  void Resume() {
    std::optional<RequestId> id;
    {
      MutexLock lock(mutex_);
      id = id_;
    }
    if (id.has_value()) engine_->Resume(*id);
  }

 private:
  Engine* const engine_;
  Mutex mutex_;
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mutex_);
  bool cancel_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace nibble

// The streams that are open, so that one which no longer moves can be cut off: a client that
// neither reads nor leaves would hold its place in the queue for ever.
#pragma once

#include <memory>
#include <vector>

#include "engine/base/mutex.h"
#include "server/stream_sink.h"

namespace nibble {

class OpenStreams {
 public:
  void Add(std::weak_ptr<StreamSink> stream) {
    MutexLock lock(mutex_);
    streams_.push_back(std::move(stream));
  }

  // Aborts those that made no progress since `since`, forgets those that ended, and returns how
  // many it aborted.
  int AbortStuckSince(Instant since) {
    std::vector<std::shared_ptr<StreamSink>> alive;
    {
      MutexLock lock(mutex_);
      for (const auto& weak : streams_) {
        if (auto stream = weak.lock()) alive.push_back(std::move(stream));
      }
      streams_.assign(alive.begin(), alive.end());
    }
    int aborted = 0;
    for (const auto& stream : alive) aborted += stream->AbortIfStuckSince(since) ? 1 : 0;
    return aborted;
  }

 private:
  Mutex mutex_;
  std::vector<std::weak_ptr<StreamSink>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble

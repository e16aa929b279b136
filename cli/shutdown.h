// What the first signal does to `nibble serve`: nothing is lost once there is a server to drain.
#pragma once

#include <memory>

#include "engine/base/log.h"
#include "engine/base/mutex.h"
#include "server/server.h"

namespace nibble {

class Shutdown {
 public:
  void LogTo(std::shared_ptr<Log> log);

  // While this lives a signal drains `server`. It goes before the server does, whichever way the
  // scope is left, so that no signal meets a server that is gone.
  class Serving {
   public:
    Serving(Shutdown& shutdown, Server& server);
    ~Serving();
    Serving(const Serving&) = delete;
    Serving& operator=(const Serving&) = delete;

   private:
    Shutdown& shutdown_;
  };

  // Any thread. Before there is a server the process ends with 0; afterwards it is ending anyway,
  // with the code it has earned.
  void Hear(int signal);

 private:
  Mutex mutex_;
  Server* server_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool has_served_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Log> log_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble

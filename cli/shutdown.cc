#include "cli/shutdown.h"

#include <cstdlib>
#include <utility>

#include "cli/io.h"

namespace nibble {

void Shutdown::LogTo(std::shared_ptr<Log> log) {
  MutexLock lock(mutex_);
  log_ = std::move(log);
}

Shutdown::Serving::Serving(Shutdown& shutdown, Server& server) : shutdown_(shutdown) {
  MutexLock lock(shutdown.mutex_);
  shutdown.server_ = &server;
  shutdown.has_served_ = true;
}

Shutdown::Serving::~Serving() {
  MutexLock lock(shutdown_.mutex_);
  shutdown_.server_ = nullptr;
}

void Shutdown::Hear(int signal) {
  MutexLock lock(mutex_);
  if (log_ != nullptr) {
    log_->Info("signal", {{"signal", signal}, {"serving", server_ != nullptr}});
  }
  if (server_ != nullptr) {
    server_->Drain();
  } else if (!has_served_) {
    std::_Exit(kExitOk);
  }
}

}  // namespace nibble

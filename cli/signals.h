// SIGTERM and SIGINT as calls on a thread, never in a signal handler: the callback may lock,
// allocate and log.
#pragma once

#include <functional>
#include <thread>

namespace nibble {

class SignalWaiter {
 public:
  // Blocks both signals in the calling thread (so every thread started from now on inherits it) and
  // hears them on a thread of its own: the first one calls `on_first(signal)`, a second one ends
  // the process at once with exit code 128 + signal. REQUIRES: no other thread was started before,
  // or a signal may kill the process as ever.
  explicit SignalWaiter(std::function<void(int)> on_first);
  ~SignalWaiter();  // joins; the signals stay blocked
  SignalWaiter(const SignalWaiter&) = delete;
  SignalWaiter& operator=(const SignalWaiter&) = delete;

 private:
  int stop_fd_ = -1;
  int signal_fd_ = -1;
  std::thread thread_;
};

}  // namespace nibble

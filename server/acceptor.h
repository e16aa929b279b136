// Accepts connections and hands them to gRPC. gRPC 1.51's own listener stops for good once the
// process was out of file descriptors (CVE-2023-4785); this one waits and goes on, and bounds how
// many it takes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "engine/base/log.h"
#include "server/handed_sockets.h"
#include "server/listen_socket.h"

namespace nibble {

class Acceptor {
 public:
  // Calls `take` with each connection's descriptor, on a thread of its own; `take` owns it from
  // then on.
  //
  // While `max_connections` that were handed over are open (handed_sockets.h), others are closed at
  // once; what other ports hold does not count. UNAVAILABLE when the system gives no pipe.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Start(ListenSocket socket,
                                                         int32_t max_connections, Log& log,
                                                         std::function<void(int fd)> take);
  ~Acceptor() { Stop(); }

  // Closes the port and returns when `take` will not be called again.
  void Stop();

  int32_t port() const { return socket_.port(); }
  bool loopback() const { return socket_.loopback(); }

 private:
  Acceptor(ListenSocket socket, int32_t max_connections, int wake_read, int wake_write, Log& log,
           std::function<void(int fd)> take);
  void Run();
  bool WaitFor(int timeout_ms, bool for_connection);  // false: stop
  bool AcceptOne();                                   // false: nothing there, or not now
  void Warn(absl::string_view event, absl::string_view detail);

  ListenSocket socket_;
  const int32_t max_connections_;
  const int wake_read_;
  const int wake_write_;
  Log& log_;
  const std::function<void(int fd)> take_;
  HandedSockets handed_;     // only the thread's
  int64_t num_refused_ = 0;  // only the thread's
  bool starved_ = false;     // only the thread's: no descriptors, wait before the next try
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace nibble

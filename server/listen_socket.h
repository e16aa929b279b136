// A bound and listening TCP socket.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble {

class ListenSocket {
 public:
  // `address` is HOST:PORT; HOST a name, an IPv4 address, an IPv6 address in brackets, or empty for
  // every interface. Port 0 chooses. `flag` is named in errors: INVALID_ARGUMENT for what is not an
  // address, UNAVAILABLE for one that cannot be bound, with the system's reason.
  static absl::StatusOr<ListenSocket> Bind(absl::string_view address, absl::string_view flag);

  ListenSocket(ListenSocket&& other) noexcept;
  ListenSocket& operator=(ListenSocket&&) = delete;
  ~ListenSocket();

  int fd() const { return fd_; }
  int32_t port() const { return port_; }
  bool loopback() const { return loopback_; }  // only this machine can reach it

 private:
  ListenSocket(int fd, int32_t port, bool loopback) : fd_(fd), port_(port), loopback_(loopback) {}

  int fd_;
  int32_t port_;
  bool loopback_;
};

}  // namespace nibble

#include "server/listen_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

constexpr int kBacklog = 512;  // connections the kernel holds while we hand over

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::Status NotAnAddress(absl::string_view address, absl::string_view flag) {
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is '", address,
                   "', needs HOST:PORT such as 127.0.0.1:50051, [::1]:50051 or 0.0.0.0:0"));
}

absl::StatusOr<AddressList> Resolve(absl::string_view address, absl::string_view flag) {
  const size_t colon = address.rfind(':');
  if (colon == absl::string_view::npos) return NotAnAddress(address, flag);
  absl::string_view host = address.substr(0, colon);
  const absl::string_view port = address.substr(colon + 1);
  const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  int32_t number = -1;
  if (!absl::SimpleAtoi(port, &number) || number < 0 || number > 65535 ||
      (!bracketed && host.find(':') != absl::string_view::npos)) {
    return NotAnAddress(address, flag);
  }
  addrinfo hints{};
  hints.ai_family = host.empty() ? AF_INET : AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string host_text(host);
  const int error = getaddrinfo(host.empty() ? nullptr : host_text.c_str(),
                                std::string(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " names host '", host, "': ", gai_strerror(error)));
  }
  return AddressList(found, &freeaddrinfo);
}

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
  }
  return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

int32_t PortOf(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                          : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
}

// -1 and errno when it cannot be.
int BindAndListen(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  // A restart may bind while old connections linger; two servers may not share a port (no
  // SO_REUSEPORT).
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, kBacklog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

}  // namespace

absl::StatusOr<ListenSocket> ListenSocket::Bind(absl::string_view address, absl::string_view flag) {
  NIBBLE_ASSIGN_OR_RETURN(AddressList list, Resolve(address, flag));
  int error = 0;
  for (const addrinfo* candidate = list.get(); candidate != nullptr;
       candidate = candidate->ai_next) {
    const int fd = BindAndListen(*candidate);
    if (fd >= 0) return ListenSocket(fd, PortOf(fd), IsLoopback(candidate->ai_addr));
    error = errno;
  }
  return absl::UnavailableError(
      absl::StrCat(flag, " ", address, " cannot be bound: ", std::strerror(error),
                   "; is another server running? Port 0 chooses a free one"));
}

ListenSocket::ListenSocket(ListenSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), port_(other.port_), loopback_(other.loopback_) {}

ListenSocket::~ListenSocket() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace nibble

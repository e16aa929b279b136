#include "server/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

constexpr int kStarvedWaitMs =
    100;  // descriptors come back as clients leave; a busy loop would not help them

}  // namespace

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Start(ListenSocket socket,
                                                          int32_t max_connections, Log& log,
                                                          std::function<void(int fd)> take) {
  int wake[2];
  if (pipe2(wake, O_CLOEXEC | O_NONBLOCK) != 0) {
    return absl::UnavailableError(absl::StrCat("no pipe for the acceptor: ", std::strerror(errno)));
  }
  return std::unique_ptr<Acceptor>(
      new Acceptor(std::move(socket), max_connections, wake[0], wake[1], log, std::move(take)));
}

Acceptor::Acceptor(ListenSocket socket, int32_t max_connections, int wake_read, int wake_write,
                   Log& log, std::function<void(int fd)> take)
    : socket_(std::move(socket)),
      max_connections_(max_connections),
      wake_read_(wake_read),
      wake_write_(wake_write),
      log_(log),
      take_(std::move(take)),
      thread_([this] { Run(); }) {}

void Acceptor::Stop() {
  if (stopping_.exchange(true)) return;
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(wake_write_, &byte, 1);
  thread_.join();
  close(wake_read_);
  close(wake_write_);
  ListenSocket closed(std::move(socket_));
}

bool Acceptor::WaitFor(int timeout_ms, bool for_connection) {
  pollfd fds[2] = {{.fd = wake_read_, .events = POLLIN, .revents = 0},
                   {.fd = socket_.fd(), .events = POLLIN, .revents = 0}};
  poll(fds, for_connection ? 2 : 1, timeout_ms);
  return !stopping_.load();
}

// The first and then every thousandth time: whoever floods the port must not flood the log.
void Acceptor::Warn(absl::string_view event, absl::string_view detail) {
  if (num_refused_++ % 1000 == 0)
    log_.Warning(event, {{"detail", detail}, {"times", num_refused_}});
}

bool Acceptor::AcceptOne() {
  const int fd = accept4(socket_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    starved_ = error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
    if (starved_) Warn("out_of_file_descriptors", std::strerror(error));
    // Otherwise nobody waits, or the one who did has left.
    return error == ECONNABORTED || error == EINTR;
  }
  if (handed_.AtLeast(max_connections_)) {
    Warn("too_many_connections", absl::StrCat(max_connections_, " are open on this port"));
    close(fd);
    return true;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  handed_.Add(fd);
  take_(fd);
  return true;
}

void Acceptor::Run() {
  while (WaitFor(-1, /*for_connection=*/true)) {
    while (!stopping_.load() && AcceptOne()) {
    }
    if (starved_ && !WaitFor(kStarvedWaitMs, /*for_connection=*/false)) return;
    starved_ = false;
  }
}

}  // namespace nibble

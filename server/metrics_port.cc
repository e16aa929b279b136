#include "server/metrics_port.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

constexpr size_t kMaxHeadBytes = 8192;  // what web servers allow
constexpr auto kPatience = std::chrono::seconds(1);
constexpr int32_t kMaxConnections = 16;  // one is answered at a time, the next wait unaccepted

// Milliseconds left, at least 0.
int Left(std::chrono::steady_clock::time_point end) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
  return left.count() > 0 ? static_cast<int>(left.count()) : 0;
}

bool Wait(int fd, short events, std::chrono::steady_clock::time_point end) {
  pollfd poll_fd{.fd = fd, .events = events, .revents = 0};
  return poll(&poll_fd, 1, Left(end)) == 1;
}

// What came until the empty line; without one when the client was too slow or sent too much.
std::string ReadHead(int fd) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  std::string head;
  char buffer[1024];
  while (head.size() < kMaxHeadBytes && !absl::StrContains(head, "\r\n\r\n") &&
         Wait(fd, POLLIN, end)) {
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n <= 0) break;
    head.append(buffer, static_cast<size_t>(n));
  }
  return head;
}

void WriteAll(int fd, absl::string_view text) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!text.empty() && Wait(fd, POLLOUT, end)) {
    const ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    text.remove_prefix(static_cast<size_t>(n));
  }
}

std::string Reply(absl::string_view status, absl::string_view type, absl::string_view body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type,
                      "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace

std::string AnswerHttp(absl::string_view head, const std::function<std::string()>& page) {
  constexpr absl::string_view kPlain = "text/plain; charset=utf-8";
  if (!absl::StrContains(head, "\r\n\r\n")) return Reply("400 Bad Request", kPlain, "not HTTP\n");
  if (!absl::StartsWith(head, "GET ")) return Reply("405 Method Not Allowed", kPlain, "only GET\n");
  const absl::string_view target = head.substr(4, head.find_first_of(" \r", 4) - 4);
  if (target != "/metrics" && !absl::StartsWith(target, "/metrics?")) {
    return Reply("404 Not Found", kPlain, "the metrics are at /metrics\n");
  }
  return Reply("200 OK", "text/plain; version=0.0.4; charset=utf-8", page());
}

absl::StatusOr<std::unique_ptr<MetricsPort>> MetricsPort::Start(ListenSocket socket, Log& log,
                                                                std::function<std::string()> page) {
  auto serve = [page = std::move(page)](int fd) {
    WriteAll(fd, AnswerHttp(ReadHead(fd), page));
    shutdown(fd, SHUT_WR);
    close(fd);
  };
  NIBBLE_ASSIGN_OR_RETURN(
      std::unique_ptr<Acceptor> acceptor,
      Acceptor::Start(std::move(socket), kMaxConnections, log, std::move(serve)));
  return std::unique_ptr<MetricsPort>(new MetricsPort(std::move(acceptor)));
}

}  // namespace nibble

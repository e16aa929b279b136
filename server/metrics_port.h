// The HTTP port of /metrics: as much HTTP/1.1 as Prometheus speaks, one scrape at a time, nothing
// kept open. A scraper that does not send or read within its second is dropped, so that it cannot
// keep others out.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/log.h"
#include "server/acceptor.h"
#include "server/listen_socket.h"

namespace nibble {

class MetricsPort {
 public:
  // Answers GET /metrics with `page()`, called on the port's own thread. Both borrowed parts
  // outlive this.
  static absl::StatusOr<std::unique_ptr<MetricsPort>> Start(ListenSocket socket, Log& log,
                                                            std::function<std::string()> page);

  int32_t port() const { return acceptor_->port(); }

 private:
  explicit MetricsPort(std::unique_ptr<Acceptor> acceptor) : acceptor_(std::move(acceptor)) {}

  std::unique_ptr<Acceptor> acceptor_;
};

// The whole reply to a request's head (its first line and headers).
std::string AnswerHttp(absl::string_view head, const std::function<std::string()>& page);

}  // namespace nibble

// One port with its gRPC server: the public one or the operators'. Connections are accepted by us
// (acceptor.h), the rest is gRPC's.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/acceptor.h"
#include "server/listen_socket.h"
#include "server/parts.h"

struct grpc_completion_queue;

namespace grpc {
class Server;
class ServerCredentials;
class Service;
}  // namespace grpc

namespace nibble {

class Listener {
 public:
  struct Options {
    bool reflection = false;
    int32_t max_connections = 1;  // more are closed at once
    // Full name and service; borrowed, outlive the listener.
    std::vector<std::pair<std::string, grpc::Service*>> services;
  };

  // Calls come in from here on. INTERNAL when gRPC does not start.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(
      ListenSocket socket, std::shared_ptr<grpc::ServerCredentials> credentials, ServerParts& parts,
      const Options& options);
  ~Listener();

  int32_t port() const { return port_; }

  // Closes the port and tells every client to go elsewhere with its next call (GOAWAY); what is
  // open goes on. Returns at once. Again, or after ShutDown: nothing.
  //
  // A call that crosses the GOAWAY on its way ends CANCELLED: gRPC 1.51 drops it.
  void TurnAway();

  // Takes no more connections, lets calls finish for `grace` of real time, then cancels them;
  // returns when all reactors are gone. Again: nothing.
  void ShutDown(Duration grace);

 private:
  Listener(std::unique_ptr<grpc::Server> server, int32_t port);

  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Acceptor> acceptor_;
  grpc_completion_queue* turned_away_ = nullptr;  // hears of the end that TurnAway began
  int32_t port_;
};

}  // namespace nibble

// The client side: a channel to a nibble server, and one streamed generation over it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/generation_writer.h"
#include "engine/request.h"
#include "nibble/v1/generation.grpc.pb.h"

namespace nibble {

struct RemoteFlags {
  std::string server;    // HOST:PORT
  std::string tls_ca;    // PEM; set: TLS, and the server must be signed by it
  std::string tls_cert;  // PEM; what this client presents (mTLS), with tls_key
  std::string tls_key;
  std::string tls_server_name;  // what its certificate must be for; empty: the host of `server`
};

// --server, --tls-ca, --tls-cert, --tls-key, --tls-server-name. The twins of --tls-cert and
// --tls-key are NIBBLE_CLIENT_TLS_..: the others are the server's own.
void AddRemoteFlags(Flags& flags, RemoteFlags& remote);

using RemoteChannel = std::shared_ptr<grpc::Channel>;

// Plaintext unless a TLS flag is set. Connects with the first call. INVALID_ARGUMENT names a flag
// that lacks another, NOT_FOUND a file that cannot be read.
absl::StatusOr<RemoteChannel> Connect(const RemoteFlags& flags);

// The status with what google.rpc details add for people: the wrong field, when to try again, the
// stage.
absl::Status FromGrpc(const grpc::Status& status);

// What goes over the wire.
nibble::v1::GenerateStreamRequest ToProto(const GenerateRequest& request);

class RemoteCall {
 public:
  RemoteCall(const RemoteChannel& channel, const GenerateRequest& request,
             std::optional<Duration> timeout);

  // Runs the stream to its end, feeding `writer` (OnStarted, OnDelta). Once.
  Outcome Run(GenerationWriter& writer);
  void Cancel() { context_.TryCancel(); }  // any thread

 private:
  std::unique_ptr<nibble::v1::GenerationService::Stub> stub_;
  nibble::v1::GenerateStreamRequest request_;
  grpc::ClientContext context_;
};

}  // namespace nibble

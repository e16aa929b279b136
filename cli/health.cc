#include "cli/health.h"

#include <chrono>

#include "grpc/health/v1/health.grpc.pb.h"

namespace nibble {

namespace health = grpc::health::v1;

void AddHealthFlags(Flags& flags, HealthFlags& health) {
  AddRemoteFlags(flags, health.remote);
  flags.Add("--service", health.service,
            "A service's full name, a model's, or liveness; default: may traffic come");
  flags.Add("--timeout", health.timeout, "How long to wait for the answer");
}

int RunHealth(const HealthFlags& flags, const Io& io) {
  if (flags.remote.server.empty()) {
    io.err << "nibble: --server: found nothing, needed HOST:PORT" << std::endl;
    return kExitUsage;
  }
  absl::StatusOr<RemoteChannel> channel = Connect(flags.remote);
  if (!channel.ok()) return ExitWith(io, channel.status());
  const auto stub = health::Health::NewStub(*channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::microseconds>(flags.timeout));
  health::HealthCheckRequest request;
  request.set_service(flags.service);
  health::HealthCheckResponse response;
  const absl::Status status = FromGrpc(stub->Check(&context, request, &response));
  if (!status.ok()) return Fail(io, status);
  io.out << health::HealthCheckResponse::ServingStatus_Name(response.status()) << std::endl;
  return response.status() == health::HealthCheckResponse::SERVING ? kExitOk : kExitFailure;
}

}  // namespace nibble

// Counts every call of every service, reflection and health too, for grpc_server_handling_seconds:
// an interceptor, so that no service can forget to. It also gives calls that gRPC could not read
// their true status.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/base/clock.h"
#include "server/metrics.h"

namespace nibble {

// Calls to other than the methods of `services` (full names) are counted as "unknown": a client can
// make up any number of them. `metrics` and `clock` must outlive the grpc::Server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CreateCallCounter(
    Metrics& metrics, const Clock& clock, const std::vector<std::string>& services);

}  // namespace nibble

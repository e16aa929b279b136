// Counts every call of every service, reflection and health too, for grpc_server_handling_seconds:
// an interceptor, so that no service can forget to.
#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "engine/base/clock.h"
#include "server/metrics.h"

namespace nibble {

// Both arguments must outlive the grpc::Server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CreateCallCounter(
    Metrics& metrics, const Clock& clock);

}  // namespace nibble

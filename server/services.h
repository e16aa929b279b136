// The gRPC services, one file each. Reactors only carry messages; what they say is decided
// elsewhere. `parts` must outlive the service, the service the grpc::Server.
#pragma once

#include <functional>
#include <memory>

#include "server/parts.h"

namespace grpc {
class Service;
}

namespace nibble {

std::unique_ptr<grpc::Service> CreateGenerationService(ServerParts& parts);
std::unique_ptr<grpc::Service> CreateTokenizerService(ServerParts& parts);
std::unique_ptr<grpc::Service> CreateModelService(ServerParts& parts);
// `drain` starts the drain and returns at once.
std::unique_ptr<grpc::Service> CreateAdminService(ServerParts& parts, std::function<void()> drain);

}  // namespace nibble

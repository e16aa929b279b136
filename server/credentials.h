// What the public port asks of its clients: nothing (plaintext), TLS, or TLS with a client
// certificate.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/server.h"

namespace grpc {
class ServerCredentials;
}

namespace nibble {

// Reads the files once. INVALID_ARGUMENT when the flags do not fit together or a file is not what
// it should be; NOT_FOUND or PERMISSION_DENIED with the path when it cannot be read.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> LoadCredentials(const TlsFiles& files);

}  // namespace nibble

// The file that tells a script which ports were chosen, for --listen 127.0.0.1:0.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/server.h"

namespace nibble {

// {"grpc":N,"metrics":N,"admin":N} and a newline. Appears whole or not at all: written beside, then
// renamed. UNAVAILABLE names the path and the system's reason.
absl::Status WritePortFile(const std::string& path, const BoundPorts& ports);

}  // namespace nibble

// The process's limit of file descriptors, against the connections it is to hold. Without room for
// both, busy clients would use up the descriptors that the operators' port needs.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/base/log.h"

namespace nibble {

// What is no client's connection: the operators' 64, gRPC's pollers, the ports, and up to a hundred
// that a GPU's driver opens.
inline constexpr int64_t kOtherDescriptors = 256;

// Raises the soft limit (RLIMIT_NOFILE) up to the hard one where `max_connections` and
// kOtherDescriptors do not fit below it. Returns how many connections fit: `max_connections`, or
// fewer and a warning in the log. RESOURCE_EXHAUSTED where not one does, with the number needed.
absl::StatusOr<int32_t> MakeRoomForConnections(int32_t max_connections, Log& log);

}  // namespace nibble

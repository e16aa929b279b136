// `nibble health`: asks grpc.health.v1 of a server; for a container's HEALTHCHECK and for scripts.
#pragma once

#include <string>

#include "cli/io.h"
#include "cli/remote.h"

namespace nibble {

struct HealthFlags {
  RemoteFlags remote;
  std::string service;  // "" is the whole server; a service's or a model's name
  Duration timeout = std::chrono::seconds(3);
};

void AddHealthFlags(Flags& flags, HealthFlags& health);

// Prints the status. 0 exactly when it is SERVING, 1 otherwise, also when there is no answer.
int RunHealth(const HealthFlags& flags, const Io& io);

}  // namespace nibble

// The lines `nibble serve` prints once it serves: commands that talk to it and work as pasted.
#pragma once

#include <string>

#include "server/server.h"

namespace nibble {

struct HintContext {
  std::string program;  // how this program can be called, such as "build/nibble"
  std::string grpcurl = "grpcurl";
  std::string ghz = "ghz";
};

// What is in effect here: the program relative to the current folder where it lies below it, and
// the tools of `make tools` where they are not on the PATH.
HintContext FindHintContext();

// Where clients of the same machine reach `listen` ("0.0.0.0:50051" -> "127.0.0.1:40123").
std::string ReachableAddress(const std::string& listen, int32_t port);

std::string ServingHints(const ServerOptions& options, const BoundPorts& ports,
                         const HintContext& context);

}  // namespace nibble

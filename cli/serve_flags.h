// Everything `nibble serve` can be told, and how it becomes the options of the server, the engine
// and the runner.
#pragma once

#include <string>

#include "cli/flags.h"
#include "cli/model_flags.h"
#include "engine/base/log.h"
#include "engine/engine.h"
#include "server/server.h"

namespace nibble {

struct ServeFlags {
  ModelFlags model;
  ServerOptions server;  // as the flags set it; ServerOptionsOf completes it
  EngineOptions engine;  // likewise
  int32_t max_waiting = 192;
  std::string port_file;  // empty: none is written
  LogLevel log_level = LogLevel::kInfo;
  bool no_reflection = false;
  bool no_prefix_cache = false;
  bool print_config = false;
};

void AddServeFlags(Flags& flags, ServeFlags& serve);

// INVALID_ARGUMENT names the flags that do not fit together.
absl::Status Validate(const ServeFlags& serve);

ServerOptions ServerOptionsOf(const ServeFlags& serve);
EngineOptions EngineOptionsOf(const ServeFlags& serve);
RunnerOptions RunnerOptionsOf(const ServeFlags& serve);

// "models/SmolLM2-135M-Instruct.Q4_1.gguf" -> "SmolLM2-135M-Instruct.Q4_1": the name clients use
// unless told otherwise.
std::string ModelNameOf(const std::string& path);

}  // namespace nibble

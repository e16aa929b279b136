// Everything `nibble generate` can be told, and the request it becomes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "cli/remote.h"
#include "engine/request.h"

namespace nibble {

struct GenerateFlags {
  ModelFlags model;    // where --model is given: the model runs in this process
  RemoteFlags remote;  // where --server is given
  std::optional<std::string> prompt;
  std::optional<std::string> chat;
  std::optional<std::string> system;
  std::vector<int32_t> token_ids;
  SamplingParams sampling;
  StoppingParams stopping;
  ResponseParams response;
  int32_t priority = 0;
  std::string cache_salt;
  std::optional<Duration> timeout;     // the call's deadline
  std::optional<Duration> time_limit;  // finishes with what there is
  OutputFormat output = OutputFormat::kText;
};

void AddGenerateFlags(Flags& flags, GenerateFlags& generate);

// INVALID_ARGUMENT: not exactly one prompt, not exactly one of --model and --server, --system
// without --chat. The deadline is left to whoever runs it: a gRPC deadline or the engine's.
absl::StatusOr<GenerateRequest> RequestOf(const GenerateFlags& flags);

}  // namespace nibble

// Shows one generation: text as it arrives, or one JSON object at the end. Fed by the local engine
// or by a server.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/io.h"
#include "cli/output.h"
#include "engine/request.h"

namespace nibble {

class GenerationWriter {
 public:
  // `response` says which log probabilities were asked for, so that their keys exist even when they
  // are empty.
  GenerationWriter(const Io& io, OutputFormat format, const ResponseParams& response);

  void OnStarted(const Started& started);
  void OnDelta(const Delta& delta);
  // The exit code: 0 for an OK outcome, 2 for INVALID_ARGUMENT, 130 for `interrupted`, else 1.
  int OnFinished(const Outcome& outcome, bool interrupted);

 private:
  nlohmann::ordered_json Summary(const Outcome& outcome) const;

  const Io& io_;
  OutputFormat format_;
  ResponseParams response_;
  uint64_t seed_ = 0;
  std::string text_;
  std::vector<int32_t> token_ids_;
  std::vector<Logprob> logprobs_;
  std::vector<std::optional<Logprob>> prompt_logprobs_;
};

}  // namespace nibble

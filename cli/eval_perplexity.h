// `nibble eval perplexity`: how well a model predicts a text, by the protocol of
// engine/eval/perplexity.h.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/eval/perplexity.h"
#include "engine/text/tokenizer.h"

namespace nibble {

enum class Bos : uint8_t { kAuto, kAlways, kNever };

struct PerplexityFlags {
  ModelFlags model;
  std::string text;  // path
  int32_t window = 512;
  std::string skip = "1";  // a number, or "half"
  Bos bos = Bos::kAuto;
  OutputFormat output = OutputFormat::kText;
};

void AddPerplexityFlags(Flags& flags, PerplexityFlags& perplexity);

// The help's last part: the protocol in words.
extern const char kPerplexityProtocol[];

// "half" is window / 2 + 1: the positions that llama.cpp scores. INVALID_ARGUMENT
// outside 1..window-1.
absl::StatusOr<int32_t> FirstScored(const std::string& skip, int32_t window);

// {"perplexity","nll","tokens","windows"}
nlohmann::ordered_json PerplexityJson(const PerplexityResult& result);

int RunPerplexity(const PerplexityFlags& flags, const Io& io);

}  // namespace nibble

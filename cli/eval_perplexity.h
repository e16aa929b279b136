// `nibble eval perplexity`: how well a model predicts a text, by the protocol of
// engine/eval/perplexity.h.
#pragma once

#include <string>

#include "cli/eval_text.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/eval/perplexity.h"

namespace nibble {

struct PerplexityFlags {
  ModelFlags model;
  TextFlags text;
  OutputFormat output = OutputFormat::kText;
};

void AddPerplexityFlags(Flags& flags, PerplexityFlags& perplexity);

// The help's last part: the protocol in words.
std::string PerplexityFooter();

// {"perplexity","perplexity_standard_error","nll","nll_standard_error","tokens","windows"}
nlohmann::ordered_json PerplexityJson(const PerplexityResult& result);

int RunPerplexity(const PerplexityFlags& flags, const Io& io);

}  // namespace nibble

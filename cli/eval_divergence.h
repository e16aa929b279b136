// `nibble eval divergence`: how far a candidate configuration lies from a base one on a text
// (engine/eval/divergence.h).
#pragma once

#include <string>

#include "cli/eval_text.h"
#include "cli/flags.h"
#include "cli/io.h"
#include "cli/model_flags.h"
#include "cli/output.h"
#include "engine/eval/base_file.h"
#include "engine/eval/divergence.h"

namespace nibble {

struct DivergenceFlags {
  DivergenceFlags();
  ModelFlags candidate;
  ModelFlags base;        // no model: the candidate's; threads and step are the candidate's
  std::string base_file;  // compare with this instead of a base model
  std::string save_base;  // only run the base, and keep what it says here
  bool record = false;    // write the figures into the candidate's file
  TextFlags text;
  OutputFormat output = OutputFormat::kText;
};

void AddDivergenceFlags(Flags& flags, DivergenceFlags& divergence);

// The help's last part: the protocol and the figures in words.
std::string DivergenceFooter();

// One of the two, as it ran. Of a base file only `file` and `model`, its description.
struct DivergenceSide {
  std::string file;   // empty: a model that ran
  std::string model;  // path
  std::string isa;    // never "auto"
  std::string activations = "int8";
  DType kv_cache_type = DType::kF16;
};

// Everything the text output says, unrounded; the keys are in the help.
nlohmann::ordered_json DivergenceJson(const DivergenceResult& result, const WindowOptions& windows,
                                      const DivergenceSide& base, const DivergenceSide& candidate);
std::string DivergenceText(const DivergenceResult& result, const WindowOptions& windows,
                           const DivergenceSide& base, const DivergenceSide& candidate);

// {"file","description","windows","tokens","bytes","bytes_per_token","perplexity":{..}}
nlohmann::ordered_json SavedBaseJson(const std::string& path, const BaseFileInfo& info);

int RunDivergence(const DivergenceFlags& flags, const Io& io);

}  // namespace nibble

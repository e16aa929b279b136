// The text that an evaluation scores: the flags every `nibble eval` subcommand has, and what they
// make of a file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/flags.h"
#include "cli/model_flags.h"
#include "engine/eval/windows.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"

namespace nibble {

enum class Bos : uint8_t { kAuto, kAlways, kNever };

struct TextFlags {
  std::string path;
  int32_t window = 512;
  std::string skip = "1";  // a number, or "half"
  int32_t stride = 0;      // 0: windows end to end
  Bos bos = Bos::kAuto;
};

// --bos
void AddBosFlag(Flags& flags, Bos& bos);
// The id to begin with; -1: none. INVALID_ARGUMENT when one is asked for that the model file does
// not name.
absl::StatusOr<int32_t> BosId(const Tokenizer& tokenizer, Bos bos);

// --text, --window, --skip, --stride, --bos; the values they have now are the defaults shown.
void AddTextFlags(Flags& flags, TextFlags& text);

// The help's paragraph about them.
extern const char kTextProtocol[];

// INVALID_ARGUMENT: no path, or a skip or stride out of range. Reads nothing.
absl::Status CheckTextFlags(const TextFlags& flags);

// "half" is window / 2 + 1: the positions that llama.cpp scores. INVALID_ARGUMENT
// outside 1..window-1.
absl::StatusOr<int32_t> FirstScored(const std::string& skip, int32_t window);

// The whole file. NOT_FOUND names `flag` and one that is not there or empty.
absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path);
// That of --text.
absl::StatusOr<std::string> ReadText(const TextFlags& flags);

// INVALID_ARGUMENT: --window is longer than the model's context.
absl::Status CheckWindowFits(const TextFlags& flags, const ModelConfig& config);

struct EvalText {
  std::vector<int32_t> ids;
  WindowOptions windows;
};
absl::StatusOr<EvalText> TokenizeText(const TextFlags& flags, const std::string& text,
                                      const Tokenizer& tokenizer);

// "positions 257..511 of 66 windows", and how later ones differ where they overlap.
std::string ScoredText(const WindowOptions& windows, int64_t num_windows);

// One window at a time is all that runs: the cache holds one, whatever the model's own context is.
RunnerOptions OneWindowRunner(const ModelFlags& model, int32_t window, const ModelConfig& config);

}  // namespace nibble

#include "cli/eval_text.h"

#include <fstream>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/local_model.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

// Whether the model file asks for a BOS, seen from what the tokenizer makes of nothing.
bool FileAddsBos(const Tokenizer& tokenizer) {
  const absl::StatusOr<std::vector<int32_t>> ids =
      tokenizer.Encode("", {.parse_special = false, .add_special = true});
  return ids.ok() && !ids->empty() && ids->front() == tokenizer.bos_id();
}

}  // namespace

const char kTextProtocol[] = R"(Protocol
  The whole text is tokenized at once, nothing in it parsed as a control token. Where the model file asks for a BOS
  (--bos auto), one is put first. The ids are cut into windows of --window; a tail shorter than a window is dropped.
  With a BOS, it replaces the first id of every window. Each window runs from an empty cache.
  Scored are positions --skip .. window - 1 (1 is the first that has a past); --skip half scores window / 2 + 1 ..,
  which are the positions llama.cpp's perplexity counts. --stride S begins a window at every S-th token: the first scores
  from --skip on, the others their last S, so that every token but the first window's has window - S or more before it.
)";

void AddTextFlags(Flags& flags, TextFlags& text) {
  flags.Add("--text", text.path, "UTF-8 text to score")->type_name("FILE");
  flags.Add("--window", text.window, "Tokens of one window: the longest context")
      ->check(CLI::Range(2, 1 << 20));
  flags.Add("--skip", text.skip, "First scored position of a window, or half")->type_name("N|half");
  flags
      .Add("--stride", text.stride,
           "Tokens from one window's begin to the next one's; 0: --window, end to end")
      ->check(CLI::Range(0, 1 << 20));
  AddBosFlag(flags, text.bos);
}

void AddBosFlag(Flags& flags, Bos& bos) {
  flags.AddChoice<Bos>("--bos", bos,
                       {{"auto", Bos::kAuto}, {"always", Bos::kAlways}, {"never", Bos::kNever}},
                       "BOS at the start of every window; auto: as the model file says");
}

absl::StatusOr<int32_t> BosId(const Tokenizer& tokenizer, Bos bos) {
  if (bos == Bos::kNever || (bos == Bos::kAuto && !FileAddsBos(tokenizer))) return -1;
  if (tokenizer.bos_id() < 0) {
    return absl::InvalidArgumentError("--bos always: the model file names no BOS token");
  }
  return tokenizer.bos_id();
}

absl::Status CheckTextFlags(const TextFlags& flags) {
  if (flags.path.empty()) {
    return absl::InvalidArgumentError("--text: found nothing, needed a text file");
  }
  NIBBLE_ASSIGN_OR_RETURN(const int32_t skip, FirstScored(flags.skip, flags.window));
  const bool overlapping = flags.stride > 0 && flags.stride < flags.window;
  if (flags.stride > flags.window || (overlapping && skip > flags.window - flags.stride)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--stride: found ", flags.stride, ", needed 1 to --window ", flags.window,
        ", and at most --window - --skip = ", flags.window - skip, " where windows overlap"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int32_t> FirstScored(const std::string& skip, int32_t window) {
  int32_t first = 0;
  if (skip == "half") {
    first = window / 2 + 1;
  } else if (!absl::SimpleAtoi(skip, &first)) {
    first = 0;
  }
  if (first < 1 || first >= window) {
    return absl::InvalidArgumentError(
        absl::StrCat("--skip: found \"", skip, "\", needed 1 to ", window - 1, " or half"));
  }
  return first;
}

absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file.is_open() || text.empty()) {
    return absl::NotFoundError(
        absl::StrCat(flag, " \"", path, "\": found nothing to read, needed a text file"));
  }
  return text;
}

absl::StatusOr<std::string> ReadText(const TextFlags& flags) {
  return ReadTextFile("--text", flags.path);
}

absl::Status CheckWindowFits(const TextFlags& flags, const ModelConfig& config) {
  if (flags.window <= config.context_length) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--window: found ", flags.window,
                                                 ", needed at most ", config.context_length,
                                                 ", the model's context"));
}

absl::StatusOr<EvalText> TokenizeText(const TextFlags& flags, const std::string& text,
                                      const Tokenizer& tokenizer) {
  EvalText result;
  result.windows.window = flags.window;
  NIBBLE_ASSIGN_OR_RETURN(result.windows.skip, FirstScored(flags.skip, flags.window));
  result.windows.stride = flags.stride;
  NIBBLE_ASSIGN_OR_RETURN(result.windows.bos_id, BosId(tokenizer, flags.bos));
  NIBBLE_ASSIGN_OR_RETURN(result.ids, tokenizer.Encode(text, {}));
  if (result.windows.bos_id >= 0) result.ids.insert(result.ids.begin(), result.windows.bos_id);
  return result;
}

std::string ScoredText(const WindowOptions& windows, int64_t num_windows) {
  std::string text = absl::StrCat("positions ", windows.skip, "..", windows.window - 1, " of ",
                                  num_windows, " windows");
  if (windows.Stride() != windows.window) {
    absl::StrAppend(&text, ", from the second on ", windows.FirstScored(1), "..",
                    windows.window - 1);
  }
  return text;
}

RunnerOptions OneWindowRunner(const ModelFlags& model, int32_t window, const ModelConfig& config) {
  RunnerOptions options = model.Runner();
  const int64_t blocks = (window + options.block_size - 1) / options.block_size;
  options.max_context = window;
  options.max_sequences = 1;
  options.kv_cache_bytes =
      blocks * options.block_size * KvBytesPerToken(config, options.kv_cache_type);
  return options;
}

}  // namespace nibble

#include "cli/eval_perplexity.h"

#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file.is_open() || text.empty()) {
    return absl::NotFoundError(
        absl::StrCat("--text \"", path, "\": found nothing to read, needed a text file"));
  }
  return text;
}

// Whether the model file asks for a BOS, seen from what the tokenizer makes of nothing.
bool FileAddsBos(const Tokenizer& tokenizer) {
  const absl::StatusOr<std::vector<int32_t>> ids =
      tokenizer.Encode("", {.parse_special = false, .add_special = true});
  return ids.ok() && !ids->empty() && ids->front() == tokenizer.bos_id();
}

absl::StatusOr<int32_t> BosId(const Tokenizer& tokenizer, Bos bos) {
  if (bos == Bos::kNever || (bos == Bos::kAuto && !FileAddsBos(tokenizer))) return -1;
  if (tokenizer.bos_id() < 0) {
    return absl::InvalidArgumentError("--bos always: the model file names no BOS token");
  }
  return tokenizer.bos_id();
}

// One window at a time is all that runs: the cache holds one, whatever the model's own context is.
RunnerOptions RunnerFor(const PerplexityFlags& flags, const ModelConfig& config) {
  RunnerOptions options = flags.model.Runner();
  const int64_t blocks = (flags.window + options.block_size - 1) / options.block_size;
  options.max_context = flags.window;
  options.max_sequences = 1;
  options.kv_cache_bytes = blocks * options.block_size * KvBytesPerToken(config);
  return options;
}

absl::Status Validate(const PerplexityFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  if (flags.text.empty()) {
    return absl::InvalidArgumentError("--text: found nothing, needed a text file");
  }
  return FirstScored(flags.skip, flags.window).status();
}

absl::StatusOr<PerplexityResult> Evaluate(const PerplexityFlags& flags, const Io& io) {
  PerplexityOptions options;
  options.window = flags.window;
  NIBBLE_ASSIGN_OR_RETURN(options.skip, FirstScored(flags.skip, flags.window));
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, ReadText(flags.text));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags.model, {}));
  NIBBLE_ASSIGN_OR_RETURN(options.bos_id, BosId(*model.tokenizer, flags.bos));
  NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.tokenizer->Encode(text, {}));
  if (options.bos_id >= 0) ids.insert(ids.begin(), options.bos_id);
  NIBBLE_RETURN_IF_ERROR(LoadWeights(model, RunnerFor(flags, model.config), {}));
  Progress progress(io.err, io.err_is_terminal, "perplexity", nullptr);
  return EvaluatePerplexity(*model.runner, ids, options, [&progress](int64_t done, int64_t total) {
    progress.Update(done, total);
  });
}

}  // namespace

const char kPerplexityProtocol[] = R"(Protocol
  The whole text is tokenized at once, nothing in it parsed as a control token. Where the model file asks for a BOS
  (--bos auto), one is put first. The ids are cut into windows of --window; a tail shorter than a window is dropped.
  With a BOS, it replaces the first id of every window. Each window runs from an empty cache.
  Scored are positions --skip .. window - 1 (1 is the first that has a past); --skip half scores window / 2 + 1 ..,
  which are the positions llama.cpp's perplexity counts.
  nll is the mean negative natural log-likelihood over all scored tokens; perplexity = exp(nll).

Example
  nibble eval perplexity --model models/SmolLM2-135M-Instruct.Q4_1.gguf --text README.md --skip half --output json
)";

void AddPerplexityFlags(Flags& flags, PerplexityFlags& perplexity) {
  AddModelFlag(flags, perplexity.model);
  flags.Add("--text", perplexity.text, "UTF-8 text to score")->type_name("FILE");
  flags.Add("--window", perplexity.window, "Tokens of one window")->check(CLI::Range(2, 1 << 20));
  flags.Add("--skip", perplexity.skip, "First scored position of a window, or half")
      ->type_name("N|half");
  flags.AddChoice<Bos>("--bos", perplexity.bos,
                       {{"auto", Bos::kAuto}, {"always", Bos::kAlways}, {"never", Bos::kNever}},
                       "BOS at the start of every window; auto: as the model file says");
  AddDeviceFlags(flags, perplexity.model);
  flags.Add("--max-batch-tokens", perplexity.model.runner.max_batch_tokens, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 16));
  AddOutputFlag(flags, perplexity.output);
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

nlohmann::ordered_json PerplexityJson(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity},
          {"nll", result.nll},
          {"tokens", result.tokens},
          {"windows", result.windows}};
}

int RunPerplexity(const PerplexityFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  const absl::StatusOr<PerplexityResult> result = Evaluate(flags, io);
  if (!result.ok()) return Fail(io, result.status());
  if (flags.output == OutputFormat::kJson) {
    io.out << PerplexityJson(*result).dump() << std::endl;
  } else {
    io.out << absl::StreamFormat("perplexity %.4f  (nll %.5f over %d tokens in %d windows)\n",
                                 result->perplexity, result->nll, result->tokens, result->windows)
           << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble

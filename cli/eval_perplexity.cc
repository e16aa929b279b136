#include "cli/eval_perplexity.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

absl::Status Validate(const PerplexityFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  return CheckTextFlags(flags.text);
}

absl::StatusOr<PerplexityResult> Evaluate(const PerplexityFlags& flags, const Io& io) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(flags.text));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel model, OpenLocalModel(flags.model, {}));
  NIBBLE_RETURN_IF_ERROR(CheckWindowFits(flags.text, model.config));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, TokenizeText(flags.text, file, *model.tokenizer));
  NIBBLE_RETURN_IF_ERROR(
      LoadWeights(model, OneWindowRunner(flags.model, flags.text.window, model.config), {}));
  Progress progress(io.err, io.err_is_terminal, "perplexity", nullptr);
  return EvaluatePerplexity(
      *model.runner, text.ids, text.windows,
      [&progress](int64_t done, int64_t total) { progress.Update(done, total); });
}

}  // namespace

std::string PerplexityFooter() {
  return absl::StrCat(
      kTextProtocol,
      R"(  nll is the mean negative natural log-likelihood over all scored tokens; perplexity = exp(nll).
  +- is one standard error, scored tokens taken as independent.

Example
  nibble eval perplexity --model models/SmolLM2-135M-Instruct.Q4_1.gguf --text README.md --skip half --output json
)");
}

void AddPerplexityFlags(Flags& flags, PerplexityFlags& perplexity) {
  AddModelFlag(flags, perplexity.model);
  AddTextFlags(flags, perplexity.text);
  AddDeviceFlags(flags, perplexity.model);
  AddKvCacheTypeFlag(flags, perplexity.model);
  flags.Add("--max-batch-tokens", perplexity.model.runner.max_batch_tokens, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 16));
  AddOutputFlag(flags, perplexity.output);
}

nlohmann::ordered_json PerplexityJson(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity},
          {"perplexity_standard_error", result.perplexity * result.nll_error},
          {"nll", result.nll},
          {"nll_standard_error", result.nll_error},
          {"tokens", result.tokens},
          {"windows", result.windows}};
}

int RunPerplexity(const PerplexityFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  const absl::StatusOr<PerplexityResult> result = Evaluate(flags, io);
  if (!result.ok()) return Fail(io, result.status());
  if (flags.output == OutputFormat::kJson) {
    PrintJson(io.out, PerplexityJson(*result));
  } else {
    io.out << absl::StreamFormat(
                  "perplexity %.4f +- %.4f  (nll %.5f over %d tokens in %d windows)\n",
                  result->perplexity, result->perplexity * result->nll_error, result->nll,
                  result->tokens, result->windows)
           << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble

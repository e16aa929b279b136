#include "cli/eval_divergence.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

constexpr double kPercent = 100;

std::string KvCacheTypeName(DType type) {
  for (const auto& [name, value] : KvCacheTypes()) {
    if (value == type) return name;
  }
  return "unknown";
}

absl::Status Validate(const DivergenceFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.candidate.model));
  return CheckTextFlags(flags.text);
}

// The base with what it takes from the candidate.
ModelFlags BaseOf(const DivergenceFlags& flags) {
  ModelFlags base = flags.base;
  if (base.model.empty()) base.model = flags.candidate.model;
  base.cpu.num_threads = flags.candidate.cpu.num_threads;
  base.runner.max_batch_tokens = flags.candidate.runner.max_batch_tokens;
  return base;
}

absl::Status LoadSide(const DivergenceFlags& flags, const ModelFlags& side, const std::string& what,
                      const Io& io, LocalModel& model) {
  Progress progress(io.err, io.err_is_terminal, absl::StrCat("loading the ", what), nullptr);
  LoadEvents events;
  events.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  return LoadWeights(model, OneWindowRunner(side, flags.text.window, model.config), events);
}

DivergenceSide Describe(const ModelFlags& flags, const LocalModel& model) {
  return {flags.model, model.backend->Info().isa, ActivationsName(*model.backend, flags.cpu),
          flags.runner.kv_cache_type};
}

struct Report {
  DivergenceResult result;
  WindowOptions windows;
  DivergenceSide base, candidate;
};

absl::StatusOr<Report> Evaluate(const DivergenceFlags& flags, const Io& io) {
  const ModelFlags base_flags = BaseOf(flags);
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(flags.text));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel base, OpenLocalModel(base_flags, {}));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel candidate, OpenLocalModel(flags.candidate, {}));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, TokenizeText(flags.text, file, *base.tokenizer));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText same,
                          TokenizeText(flags.text, file, *candidate.tokenizer));
  if (text.ids != same.ids || text.windows.bos_id != same.windows.bos_id) {
    return absl::InvalidArgumentError(
        "--base-model: its tokenizer makes other tokens of the text than --model's: distributions "
        "over different tokens cannot be compared");
  }
  NIBBLE_RETURN_IF_ERROR(LoadSide(flags, base_flags, "base", io, base));
  NIBBLE_RETURN_IF_ERROR(LoadSide(flags, flags.candidate, "candidate", io, candidate));
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "divergence", nullptr, &clock);
  Report report;
  report.windows = text.windows;
  report.base = Describe(base_flags, base);
  report.candidate = Describe(flags.candidate, candidate);
  NIBBLE_ASSIGN_OR_RETURN(
      report.result, EvaluateDivergence(*base.runner, *candidate.runner, text.ids, text.windows,
                                        [&progress](int64_t done, int64_t total) {
                                          progress.Update(done, total);
                                        }));
  return report;
}

// The ratio of the perplexities, candidate to base; its error to first order.
Estimate PerplexityRatio(const DivergenceResult& result) {
  const double ratio = std::exp(-result.delta.mean);
  return {ratio, ratio * result.delta.standard_error};
}

nlohmann::ordered_json SideJson(const DivergenceSide& side) {
  return {{"model", side.model},
          {"cpu_isa", side.isa},
          {"cpu_activations", side.activations},
          {"kv_cache_type", KvCacheTypeName(side.kv_cache_type)}};
}

std::string SideText(const char* what, const DivergenceSide& side) {
  return absl::StrFormat("%-11s%s  %s  %s activations  %s cache\n", what, side.model, side.isa,
                         side.activations, KvCacheTypeName(side.kv_cache_type));
}

}  // namespace

DivergenceFlags::DivergenceFlags() {
  base.cpu.activations = CpuActivations::kF32;
  text.skip = "half";
}

std::string DivergenceFooter() {
  return absl::StrCat(kTextProtocol, R"(
  Base and candidate run the same windows. At each scored position, over the whole vocabulary, natural logarithms:
  kl              KL(base || candidate), nats a token: mean, median, 90 %, 99 %, max
  top1_agreement  share of positions where both find the same token likeliest
  logprob_delta   log p of the text's token, candidate minus base: negative means the candidate is worse
  perplexity      of both, and their ratio, exp(-mean delta)
  +- is one standard error of the mean, scored tokens taken as independent. Those of delta and ratio are paired.
  Without --base flags the base is the same file with f32 activations and an f16 cache, the exact path.

JSON
  {"windows","window","first_scored","tokens","kl":{"mean","standard_error","median","p90","p99","max"},
  "top1_agreement":{"percent","standard_error"},"logprob_delta":{"mean","standard_error"},
  "perplexity":{"base","candidate","ratio","ratio_standard_error"},
  "base":{"model","cpu_isa","cpu_activations","kv_cache_type"},"candidate":{..}}

Examples
  nibble eval divergence --model m.gguf --text tests/data/eval.txt                      what int8 activations cost
  nibble eval divergence --model m.gguf --text tests/data/eval.txt --window 4096        the same deep in a context
  nibble eval divergence --base-model f16.gguf --model q4.gguf --text t.txt --output json   what quantizing cost
)");
}

void AddDivergenceFlags(Flags& flags, DivergenceFlags& divergence) {
  AddModelFlag(flags, divergence.candidate);
  AddTextFlags(flags, divergence.text);
  AddDeviceFlags(flags, divergence.candidate);
  AddKvCacheTypeFlag(flags, divergence.candidate);
  flags
      .Add("--base-model", divergence.base.model,
           "GGUF file or folder of the base, with the same tokenizer; empty: that of --model")
      ->type_name("FILE");
  AddArithmeticFlags(flags, divergence.base, "--base-");
  AddKvCacheTypeFlag(flags, divergence.base, "--base-");
  flags
      .Add("--max-batch-tokens", divergence.candidate.runner.max_batch_tokens, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 16));
  AddOutputFlag(flags, divergence.output);
}

nlohmann::ordered_json DivergenceJson(const DivergenceResult& result, const WindowOptions& windows,
                                      const DivergenceSide& base, const DivergenceSide& candidate) {
  const Estimate ratio = PerplexityRatio(result);
  return {{"windows", result.windows},
          {"window", windows.window},
          {"first_scored", windows.skip},
          {"tokens", result.tokens},
          {"kl",
           {{"mean", result.kl.mean},
            {"standard_error", result.kl.standard_error},
            {"median", result.kl_median},
            {"p90", result.kl_p90},
            {"p99", result.kl_p99},
            {"max", result.kl_max}}},
          {"top1_agreement",
           {{"percent", kPercent * result.agreement.mean},
            {"standard_error", kPercent * result.agreement.standard_error}}},
          {"logprob_delta",
           {{"mean", result.delta.mean}, {"standard_error", result.delta.standard_error}}},
          {"perplexity",
           {{"base", std::exp(result.base_nll)},
            {"candidate", std::exp(result.candidate_nll)},
            {"ratio", ratio.mean},
            {"ratio_standard_error", ratio.standard_error}}},
          {"base", SideJson(base)},
          {"candidate", SideJson(candidate)}};
}

std::string DivergenceText(const DivergenceResult& result, const WindowOptions& windows,
                           const DivergenceSide& base, const DivergenceSide& candidate) {
  const Estimate ratio = PerplexityRatio(result);
  return absl::StrCat(
      SideText("base", base), SideText("candidate", candidate),
      absl::StrFormat("scored     %d tokens: positions %d..%d of %d windows\n", result.tokens,
                      windows.skip, windows.window - 1, result.windows),
      absl::StrFormat("KL         mean %.6f +- %.6f  median %.6f  90 %% %.6f  99 %% %.6f  "
                      "max %.6f nats\n",
                      result.kl.mean, result.kl.standard_error, result.kl_median, result.kl_p90,
                      result.kl_p99, result.kl_max),
      absl::StrFormat("top-1      %.2f %% +- %.2f the same\n", kPercent * result.agreement.mean,
                      kPercent * result.agreement.standard_error),
      absl::StrFormat("delta      mean %+.6f +- %.6f nats of the text's tokens\n",
                      result.delta.mean, result.delta.standard_error),
      absl::StrFormat("perplexity base %.4f  candidate %.4f  ratio %.6f +- %.6f\n",
                      std::exp(result.base_nll), std::exp(result.candidate_nll), ratio.mean,
                      ratio.standard_error));
}

int RunDivergence(const DivergenceFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  const absl::StatusOr<Report> report = Evaluate(flags, io);
  if (!report.ok()) return Fail(io, report.status());
  if (flags.output == OutputFormat::kJson) {
    io.out
        << DivergenceJson(report->result, report->windows, report->base, report->candidate).dump()
        << std::endl;
  } else {
    io.out << DivergenceText(report->result, report->windows, report->base, report->candidate)
           << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble

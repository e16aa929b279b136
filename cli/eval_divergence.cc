#include "cli/eval_divergence.h"

#include <cmath>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/eval_record.h"
#include "cli/local_model.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

// Flags that say what the base is exclude each other.
absl::Status Validate(const DivergenceFlags& flags) {
  if (!flags.save_base.empty() && !flags.base_file.empty()) {
    return absl::InvalidArgumentError("--save-base and --base: found both, needed one");
  }
  if (!flags.base_file.empty() && !flags.base.model.empty()) {
    return absl::InvalidArgumentError("--base-model and --base: found both, needed one base");
  }
  if (flags.record && (!flags.save_base.empty() || flags.base.model.empty())) {
    return absl::InvalidArgumentError(
        "--record: needs --base-model, the model that --model was quantized from");
  }
  const bool model_given = !flags.save_base.empty() && !flags.base.model.empty();
  if (!model_given) NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.candidate.model));
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
  NIBBLE_RETURN_IF_ERROR(CheckWindowFits(flags.text, model.config));
  Progress progress(io.err, io.err_is_terminal, absl::StrCat("loading the ", what), nullptr);
  LoadEvents events;
  events.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  return LoadWeights(model, OneWindowRunner(side, flags.text.window, model.config), events);
}

DivergenceSide Describe(const ModelFlags& flags, const LocalModel& model) {
  return {"", flags.model, model.backend->Info().isa, ActivationsName(*model.backend, flags.cpu),
          flags.runner.kv_cache_type};
}

struct Report {
  DivergenceResult result;
  WindowOptions windows;
  DivergenceSide base, candidate;
};

// A bar with the time left, for what is measured while it exists.
class Bar {
 public:
  Bar(const Io& io, const std::string& what)
      : progress_(io.err, io.err_is_terminal, what, nullptr, &clock_) {}
  std::function<void(int64_t, int64_t)> Hears() {
    return [this](int64_t done, int64_t total) { progress_.Update(done, total); };
  }

 private:
  const SteadyClock clock_;
  Progress progress_;
};

absl::StatusOr<Report> CompareModels(const DivergenceFlags& flags, const std::string& file,
                                     const Io& io) {
  const ModelFlags base_flags = BaseOf(flags);
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
  Report report;
  report.windows = text.windows;
  report.base = Describe(base_flags, base);
  report.candidate = Describe(flags.candidate, candidate);
  Bar bar(io, "divergence");
  NIBBLE_ASSIGN_OR_RETURN(report.result, EvaluateDivergence(*base.runner, *candidate.runner,
                                                            text.ids, text.windows, bar.Hears()));
  return report;
}

absl::StatusOr<Report> CompareWithFile(const DivergenceFlags& flags, const std::string& file,
                                       const Io& io) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<BaseFile> base, BaseFile::Open(flags.base_file));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel candidate, OpenLocalModel(flags.candidate, {}));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text,
                          TokenizeText(flags.text, file, *candidate.tokenizer));
  NIBBLE_RETURN_IF_ERROR(base->Check(text.ids, text.windows));  // before the weights are loaded
  NIBBLE_RETURN_IF_ERROR(LoadSide(flags, flags.candidate, "candidate", io, candidate));
  Report report;
  report.windows = text.windows;
  report.base.file = flags.base_file;
  report.base.model = base->info().description;
  report.candidate = Describe(flags.candidate, candidate);
  Bar bar(io, "divergence");
  NIBBLE_ASSIGN_OR_RETURN(report.result, EvaluateDivergence(*base, *candidate.runner, text.ids,
                                                            text.windows, bar.Hears()));
  return report;
}

absl::StatusOr<Report> Evaluate(const DivergenceFlags& flags, const Io& io) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(flags.text));
  if (!flags.base_file.empty()) return CompareWithFile(flags, file, io);
  if (flags.record) {
    NIBBLE_RETURN_IF_ERROR(CheckRecordable(flags.candidate.model, flags.base.model));
  }
  NIBBLE_ASSIGN_OR_RETURN(Report report, CompareModels(flags, file, io));
  if (flags.record) {
    const EvaluationRecord record =
        MakeRecord(report.result, report.windows, report.base, report.candidate, file);
    NIBBLE_RETURN_IF_ERROR(Record(flags.candidate.model, record));
  }
  return report;
}

// What a base file says of its model: the name without its folder, which tells nothing elsewhere.
std::string Description(const DivergenceSide& side) {
  const size_t slash = side.model.find_last_of('/');
  std::string text = absl::StrCat(
      slash == std::string::npos ? side.model : side.model.substr(slash + 1), ", ", side.isa, ", ",
      side.activations, " activations, ", KvCacheTypeName(side.kv_cache_type), " cache");
  for (char& c : text) c = absl::ascii_isprint(static_cast<unsigned char>(c)) ? c : '?';
  return text.substr(0, kMaxBaseDescription);
}

absl::StatusOr<BaseFileInfo> SaveBase(const DivergenceFlags& flags, const Io& io) {
  const ModelFlags base_flags = BaseOf(flags);
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(flags.text));
  NIBBLE_ASSIGN_OR_RETURN(LocalModel base, OpenLocalModel(base_flags, {}));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, TokenizeText(flags.text, file, *base.tokenizer));
  NIBBLE_RETURN_IF_ERROR(LoadSide(flags, base_flags, "base", io, base));
  Bar bar(io, "base");
  return SaveBaseFile(*base.runner, text.ids, text.windows, Description(Describe(base_flags, base)),
                      flags.save_base, bar.Hears());
}

int RunSaveBase(const DivergenceFlags& flags, const Io& io) {
  const absl::StatusOr<BaseFileInfo> info = SaveBase(flags, io);
  if (!info.ok()) return Fail(io, info.status());
  if (flags.output == OutputFormat::kJson) {
    PrintJson(io.out, SavedBaseJson(flags.save_base, *info));
    return kExitOk;
  }
  const double perplexity = std::exp(info->nll.mean);
  io.out << absl::StreamFormat(
                "base       %s\nsaved      %s: %d bytes, %d for each of %d tokens: %s\n"
                "perplexity base %.4f +- %.4f\n",
                info->description, flags.save_base, info->size_bytes, info->position_bytes,
                info->num_positions, ScoredText(info->windows, info->num_windows), perplexity,
                perplexity * info->nll.standard_error)
         << std::flush;
  return kExitOk;
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
  probability_change  root mean square of what the probability of the text's token changed by
  logprob_delta   log p of the text's token, candidate minus base: negative means the candidate is worse
  perplexity      of both, and their ratio, exp(-mean delta)
  +- is one standard error, scored tokens taken as independent (a maximum has none). Those of delta and ratio are paired.
  Without --base flags the base is the same file with f32 activations and an f16 cache, the exact path.

Record
  --record adds KL, agreement and both perplexities to the keys of --model (of a folder: nibble_quantize.json), where
  `nibble inspect` and ModelService.GetModel show them. The file is replaced whole or not at all; its weights stay. Measure with
  --cpu-activations f32 to record what quantizing the weights cost, without what fast activations add.

Base file
  --save-base FILE runs only the base (--base-model, or --model) and keeps its distributions: 16 bytes a scored token and
  2 a word of the vocabulary, codes of log p with a step of 1/65,535 of their spread. --base FILE compares with it
  instead of a model; text, window, skip, stride and BOS must be those it was made with.

JSON
  {"windows","window","first_scored","stride","tokens",
  "kl":{"mean","standard_error","median","median_standard_error","p90",..,"p99",..,"max"},
  "top1_agreement":{"percent","standard_error"},"probability_change":{"rms_percent","standard_error"},
  "logprob_delta":{"mean","standard_error"},"perplexity":{"base","base_standard_error","candidate",
  "candidate_standard_error","ratio","ratio_standard_error"},
  "base":{"model","cpu_isa","cpu_activations","kv_cache_type"} or {"file","description"},"candidate":{..}}
  --save-base: {"file","description","windows","tokens","bytes","bytes_per_token","perplexity",
  "perplexity_standard_error"}

Examples
  nibble eval divergence --model m.gguf --text tests/data/eval.txt                      what int8 activations cost
  nibble eval divergence --model m.gguf --text tests/data/eval.txt --window 4096        the same deep in a context
  nibble eval divergence --base-model f16.gguf --model q4.gguf --text t.txt --output json   what quantizing cost
  nibble eval divergence --base-model f16.gguf --text t.txt --save-base f16.base            once, then for each candidate
  nibble eval divergence --base-model f16.gguf --model q4.gguf --text t.txt --cpu-activations f32 --record
  nibble eval divergence --base f16.base --model q4.gguf --text t.txt --cpu-activations f32
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
  flags.Add("--base", divergence.base_file, "A base's distributions, as --save-base wrote them")
      ->type_name("FILE");
  flags
      .Add("--save-base", divergence.save_base,
           "Run the base alone and keep its distributions for --base")
      ->type_name("FILE");
  flags.Add("--record", divergence.record,
            "Write the figures into --model, what `nibble quantize` made of --base-model");
  AddArithmeticFlags(flags, divergence.base, "--base-");
  AddKvCacheTypeFlag(flags, divergence.base, "--base-");
  flags
      .Add("--max-batch-tokens", divergence.candidate.runner.max_batch_tokens, "Tokens of one step")
      ->check(CLI::Range(1, 1 << 16));
  AddOutputFlag(flags, divergence.output);
}

int RunDivergence(const DivergenceFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  if (!flags.save_base.empty()) return RunSaveBase(flags, io);
  const absl::StatusOr<Report> report = Evaluate(flags, io);
  if (!report.ok()) return Fail(io, report.status());
  if (flags.output == OutputFormat::kJson) {
    PrintJson(io.out,
              DivergenceJson(report->result, report->windows, report->base, report->candidate));
  } else {
    io.out << DivergenceText(report->result, report->windows, report->base, report->candidate)
           << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble

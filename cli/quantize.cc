#include "cli/quantize.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/interrupt.h"
#include "cli/measure_importance.h"
#include "cli/model_flags.h"
#include "cli/progress.h"
#include "cli/version.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/quantize_source.h"
#include "kernels/backend.h"

namespace nibble {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kMaxThreads = 256;

// As the cpu backend counts: affinity and the container's limit. Its threads end with this call.
absl::StatusOr<int32_t> NumThreads(int32_t asked) {
  if (asked > 0) return asked;
  CpuOptions options;
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, CreateCpuBackend(options));
  return std::max(1, backend->Info().num_threads);
}

std::string TypeName(GgmlType type) { return TypeInfo(static_cast<int32_t>(type)).name; }

struct Job {
  RecipeOptions recipe;
  Importance importance;
  std::string importance_sha256;
  std::string calibration_sha256;
};

absl::StatusOr<Job> MakeJob(const QuantizeFlags& flags) {
  Job job;
  absl::StatusOr<MixInfo> mix = ParseMix(flags.type);
  if (!mix.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--type: ", mix.status().message()));
  }
  job.recipe.mix = *std::move(mix);
  job.recipe.pure = flags.pure;
  for (const std::string& text : flags.tensor_types) {
    NIBBLE_ASSIGN_OR_RETURN(TypeOverride entry, ParseTensorType(text));
    job.recipe.overrides.push_back(std::move(entry));
  }
  return job;
}

absl::Status ReadImportance(const QuantizeFlags& flags, const Io& io, Job& job) {
  if (!flags.calibration.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(MeasuredImportance measured,
                            MeasureImportance(flags.model, flags.calibration, flags.threads, io));
    if (!flags.imatrix_output.empty()) {
      NIBBLE_RETURN_IF_ERROR(
          measured.importance.Write(flags.imatrix_output, measured.windows, measured.window));
    }
    job.importance = std::move(measured.importance);
    NIBBLE_ASSIGN_OR_RETURN(job.calibration_sha256, FileSha256(flags.calibration));
    job.recipe.has_importance = true;
    return absl::OkStatus();
  }
  if (flags.imatrix.empty()) return absl::OkStatus();
  NIBBLE_ASSIGN_OR_RETURN(job.importance, Importance::Read(flags.imatrix));
  NIBBLE_ASSIGN_OR_RETURN(job.importance_sha256, FileSha256(flags.imatrix));
  job.recipe.has_importance = true;
  return absl::OkStatus();
}

absl::Status CheckImportanceFlags(const QuantizeFlags& flags) {
  if (!flags.calibration.empty() && !flags.imatrix.empty()) {
    return absl::InvalidArgumentError(
        "--calibration and --imatrix: found both, needed one source of importance");
  }
  if (!flags.imatrix_output.empty() && flags.calibration.empty()) {
    return absl::InvalidArgumentError(
        "--imatrix-output: keeps what --calibration measures, which is not given");
  }
  return absl::OkStatus();
}

// What else was asked for, as it would be typed; no paths, which tell nothing elsewhere.
std::string OptionsText(const QuantizeFlags& flags) {
  std::vector<std::string> parts;
  if (flags.pure) parts.emplace_back("--pure");
  for (const std::string& text : flags.tensor_types) {
    parts.push_back(absl::StrCat("--tensor-type ", text));
  }
  if (!flags.imatrix.empty()) parts.emplace_back("--imatrix");
  if (!flags.calibration.empty()) parts.emplace_back("--calibration");
  return absl::StrJoin(parts, " ");
}

void Warn(const Io& io, absl::string_view text) {
  io.err << "nibble: warning: " << text << std::endl;
}

void WarnAboutPlan(const std::vector<TensorRecipe>& recipes, const Job& job, const Io& io) {
  if (SourceIsQuantized(recipes)) {
    Warn(io,
         "the source is quantized already: its error stays and the new one adds to it; quantize "
         "the original F16 or BF16 file where there is one");
  }
  int64_t unknown = 0, quantized = 0;
  for (const TensorRecipe& recipe : recipes) {
    if (!recipe.note.empty()) Warn(io, absl::StrCat(recipe.name, ": ", recipe.note));
    // An embedding that is not the head meets no activation: nobody can measure its columns.
    if (recipe.copied || recipe.name == "token_embd.weight") continue;
    ++quantized;
    unknown += job.importance.Find(recipe.name).empty();
  }
  if (job.recipe.has_importance && unknown > 0) {
    Warn(io, absl::StrCat("the importance matrix says nothing of ", unknown, " of ", quantized,
                          " tensors: they are quantized without"));
  }
}

// A dry run's report: sizes without errors.
QuantizeReport Planned(const SourceTensors& source, const std::vector<TensorRecipe>& recipes) {
  QuantizeReport report;
  for (size_t t = 0; t < recipes.size(); ++t) {
    const SourceTensor& tensor = source.tensors()[t];
    report.tensors.push_back({.name = tensor.name,
                              .source = recipes[t].source,
                              .target = recipes[t].target,
                              .num_elements = tensor.num_elements,
                              .source_bytes = tensor.size_bytes,
                              .target_bytes = BytesOf(recipes[t].target, tensor.num_elements)});
  }
  return report;
}

struct Totals {
  int64_t elements = 0, source_bytes = 0, target_bytes = 0;
  double Bits(int64_t bytes) const {
    return elements > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0;
  }
};

Totals TotalsOf(const QuantizeReport& report) {
  Totals totals;
  for (const TensorOutcome& tensor : report.tensors) {
    totals.elements += tensor.num_elements;
    totals.source_bytes += tensor.source_bytes;
    totals.target_bytes += tensor.target_bytes;
  }
  return totals;
}

Json ReportJson(const QuantizeFlags& flags, const QuantizeReport& report) {
  const Totals totals = TotalsOf(report);
  Json tensors = Json::array();
  for (const TensorOutcome& tensor : report.tensors) {
    Json row = {{"name", tensor.name},
                {"from", TypeName(tensor.source)},
                {"to", TypeName(tensor.target)},
                {"bytes", tensor.target_bytes}};
    if (!flags.dry_run) row["relative_error"] = tensor.relative_error;
    tensors.push_back(std::move(row));
  }
  Json json = {{"model", flags.model},
               {"type", flags.type},
               {"dry_run", flags.dry_run},
               {"source_weights_bytes", totals.source_bytes},
               {"weights_bytes", totals.target_bytes},
               {"bits_per_weight", totals.Bits(totals.target_bytes)},
               {"tensors", std::move(tensors)}};
  if (flags.dry_run) return json;
  json["output"] = flags.output;
  json["output_bytes"] = report.output_bytes;
  json["source_sha256"] = report.source_sha256;
  return json;
}

void PrintReport(const QuantizeFlags& flags, const QuantizeReport& report, std::ostream& out) {
  std::map<std::string, int64_t> counts;
  for (const TensorOutcome& tensor : report.tensors) {
    ++counts[TypeName(tensor.target)];
    out << absl::StreamFormat("%-32s %-5s -> %-6s %12d bytes", tensor.name, TypeName(tensor.source),
                              TypeName(tensor.target), tensor.target_bytes);
    if (!flags.dry_run && tensor.source != tensor.target) {
      out << absl::StreamFormat("  error %.5f", tensor.relative_error);
    }
    out << "\n";
  }
  const Totals totals = TotalsOf(report);
  out << "tensors        "
      << absl::StrJoin(counts, ", ",
                       [](std::string* text, const auto& entry) {
                         absl::StrAppend(text, entry.second, " ", entry.first);
                       })
      << absl::StreamFormat("\nweights        %d -> %d bytes, %.3f -> %.3f bits a weight\n",
                            totals.source_bytes, totals.target_bytes,
                            totals.Bits(totals.source_bytes), totals.Bits(totals.target_bytes));
  if (!flags.dry_run) {
    out << absl::StreamFormat("wrote          %s, %d bytes\n", flags.output, report.output_bytes);
  }
  out.flush();
}

// Until tensors are converted Ctrl-C ends the process: there is nothing to clean up.
absl::StatusOr<QuantizeReport> Quantize(const QuantizeFlags& flags, Job& job, Interrupt& interrupt,
                                        const Io& io) {
  NIBBLE_RETURN_IF_ERROR(ReadImportance(flags, io, job));
  NIBBLE_ASSIGN_OR_RETURN(const QuantizeSource source, QuantizeSource::Open(flags.model));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<TensorRecipe> recipes,
                          PlanTypes(source.tensors(), job.recipe));
  WarnAboutPlan(recipes, job, io);
  QuantizeOptions options;
  NIBBLE_ASSIGN_OR_RETURN(options.keys, source.Keys());
  if (flags.dry_run) return Planned(source.tensors(), recipes);
  NIBBLE_ASSIGN_OR_RETURN(options.source_sha256, source.Sha256());
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "quantizing", nullptr, &clock);
  options.mix = job.recipe.mix;
  options.output = flags.output;
  options.options_text = OptionsText(flags);
  options.tool = absl::StrCat("nibble ", kVersion);
  NIBBLE_ASSIGN_OR_RETURN(options.num_threads, NumThreads(flags.threads));
  options.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  std::atomic<bool> cancelled{false};
  options.cancelled = &cancelled;
  if (job.recipe.has_importance) {
    options.importance = &job.importance;
    options.importance_sha256 = job.importance_sha256;
    options.calibration_sha256 = job.calibration_sha256;
  }
  interrupt.OnInterrupt([&cancelled] { cancelled.store(true); });
  absl::StatusOr<QuantizeReport> report = QuantizeGguf(source.tensors(), recipes, options);
  interrupt.OnInterrupt(nullptr);
  return report;
}

}  // namespace

std::string QuantizeFooter() {
  return absl::StrCat(R"(
Types: )",
                      absl::StrJoin(MixNames(), ", "), R"(.
A type names a mix, as llama.cpp's: its tables give some tensors more bits. --pure gives every matrix the base type.
--tensor-type overrides both; the first pattern that is found in a tensor's name wins. Rows that are no multiple of
a type's block get the type the warning names. Vectors and norms are copied.

The file is complete or absent, and the same bytes for any --threads. Its keys nibble.quantize.* tell the source's
SHA-256, the type, the options and every tensor's error; nibble inspect shows them. An error is
sqrt(sum (x - y)^2 / sum x^2) over the tensor.

JSON: {"model","type","dry_run","source_weights_bytes","weights_bytes","bits_per_weight",
"tensors":[{"name","from","to","bytes","relative_error"},..],"output","output_bytes","source_sha256"}

Examples
  nibble quantize --model f16.gguf --output q4.gguf --type q4_k_m
  nibble quantize --model f16.gguf --output q4.gguf --type q4_k_m --tensor-type 'attn_v=q8_0' --imatrix imatrix.gguf
  nibble quantize --model f16.gguf --output q3.gguf --type q3_k_m --calibration text.txt --imatrix-output i.gguf
  nibble quantize --model f16.gguf --type q2_k --dry-run                    what each tensor would get, and the size
)");
}

void AddQuantizeFlags(Flags& flags, QuantizeFlags& quantize) {
  flags
      .Add("--model", quantize.model,
           "GGUF file, or folder with config.json, tokenizer.json and safetensors")
      ->type_name("PATH");
  // No environment twin: NIBBLE_OUTPUT is the form of other subcommands' results.
  flags.App()
      .add_option("--output", quantize.output, "GGUF file to write (this flag has no twin)")
      ->type_name("FILE");
  flags.Add("--type", quantize.type, "The mix of types; listed below")->type_name("TYPE");
  flags
      .Add("--tensor-type", quantize.tensor_types,
           "Type of the tensors whose name holds a match; may be given again and again")
      ->type_name("REGEX=TYPE");
  flags
      .Add("--imatrix", quantize.imatrix,
           "Importance of the columns, as llama.cpp's imatrix writes it (.gguf or .dat)")
      ->type_name("FILE");
  flags
      .Add("--calibration", quantize.calibration,
           "Instead: a text that the source model reads to measure the importance")
      ->type_name("FILE");
  flags
      .Add("--imatrix-output", quantize.imatrix_output,
           "GGUF file that keeps what --calibration measured, as llama.cpp reads it")
      ->type_name("FILE");
  flags.Add("--pure", quantize.pure, "Every matrix gets the type's base, output and embedding too");
  flags.Add("--threads", quantize.threads, "0: one a core this process may use")
      ->check(CLI::Range(0, kMaxThreads));
  flags.Add("--dry-run", quantize.dry_run,
            "Write no model: only say what each tensor would become");
  flags.Add("--overwrite", quantize.overwrite, "Replace the output where it exists");
  flags.AddChoice<OutputFormat>("--output-format", quantize.format,
                                {{"text", OutputFormat::kText}, {"json", OutputFormat::kJson}},
                                "text for people, json for programs");
}

absl::StatusOr<TypeOverride> ParseTensorType(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor-type: found \"", text, "\", needed REGEX=TYPE"));
  }
  absl::StatusOr<GgmlType> type = ParseEncodableType(text.substr(equals + 1));
  if (!type.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--tensor-type: ", type.status().message()));
  }
  return TypeOverride{text.substr(0, equals), *type};
}

absl::Status CheckOutput(const std::string& model, const std::string& output, bool overwrite) {
  struct stat source, target;
  if (stat(output.c_str(), &target) != 0) return absl::OkStatus();
  if (stat(model.c_str(), &source) == 0 && source.st_dev == target.st_dev &&
      source.st_ino == target.st_ino) {
    return absl::InvalidArgumentError(
        absl::StrCat("--output: ", output, " is the file that --model names; name another"));
  }
  if (!S_ISREG(target.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("--output: ", output, " exists and is not a regular file"));
  }
  if (overwrite) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("--output: ", output, " exists; name another file or give --overwrite"));
}

int RunQuantize(const QuantizeFlags& flags, const Io& io) {
  if (const absl::Status given = CheckModelGiven(flags.model); !given.ok()) {
    return WrongUsage(io, given);
  }
  if (const absl::Status flag = CheckImportanceFlags(flags); !flag.ok()) {
    return WrongUsage(io, flag);
  }
  absl::StatusOr<Job> job = MakeJob(flags);
  if (!job.ok()) return WrongUsage(io, job.status());
  if (!flags.dry_run) {
    if (flags.output.empty()) {
      return WrongUsage(io, absl::InvalidArgumentError(
                                "--output: found nothing, needed a file to write (or --dry-run)"));
    }
    const absl::Status output = CheckOutput(flags.model, flags.output, flags.overwrite);
    if (output.code() == absl::StatusCode::kInvalidArgument) return WrongUsage(io, output);
    if (!output.ok()) return Fail(io, output);
  }
  Interrupt interrupt;
  const absl::StatusOr<QuantizeReport> report = Quantize(flags, *job, interrupt, io);
  if (absl::IsCancelled(report.status())) {
    Fail(io, report.status());
    return kExitInterrupted;
  }
  if (!report.ok()) {
    return absl::IsInvalidArgument(report.status()) ? WrongUsage(io, report.status())
                                                    : Fail(io, report.status());
  }
  if (flags.format == OutputFormat::kJson) {
    io.out << ReportJson(flags, *report).dump(2) << std::endl;
  } else {
    PrintReport(flags, *report, io.out);
  }
  return kExitOk;
}

}  // namespace nibble

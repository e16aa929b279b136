#include "cli/quantize_types.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/measure_importance.h"
#include "cli/progress.h"
#include "cli/quantize_budget.h"
#include "cli/quantize_unused.h"
#include "cli/version.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/quantize_source.h"

namespace nibble {
namespace {

constexpr char kDefaultType[] = "q4_k_m";

struct Job {
  RecipeOptions recipe;
  Importance importance;
  std::string importance_sha256;
  std::string calibration_sha256;
  int32_t calibration_windows = 0, calibration_length = 0;  // that the importance is of
};

absl::StatusOr<Job> MakeJob(const QuantizeFlags& flags) {
  Job job;
  NIBBLE_ASSIGN_OR_RETURN(job.recipe.mix,
                          ParseTypeFlag(flags.type.empty() ? kDefaultType : flags.type));
  job.recipe.pure = flags.pure;
  NIBBLE_ASSIGN_OR_RETURN(job.recipe.overrides, ParseTensorTypes(flags.tensor_types));
  job.recipe.has_importance = !flags.calibration.empty() || !flags.imatrix.empty();
  return job;
}

// ggml's rules need no architecture that this program knows, but whoever quantizes for it should
// hear that.
void WarnIfNotServed(const QuantizeSource& source, const Io& io) {
  const absl::Status served = source.file().Config().status();
  if (served.ok()) return;
  Warn(io, absl::StrCat("this program cannot serve the model: ", served.message()));
}

absl::Status ReadImportance(const QuantizeFlags& flags, const Io& io, Job& job) {
  if (!flags.calibration.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(MeasuredImportance measured,
                            MeasureImportance(flags.model,
                                              {.path = flags.calibration,
                                               .windows = flags.calibration_windows,
                                               .length = flags.calibration_length,
                                               .seed = flags.seed},
                                              flags.threads, io));
    if (!flags.imatrix_output.empty()) {
      NIBBLE_RETURN_IF_ERROR(
          measured.importance.Write(flags.imatrix_output, measured.windows, measured.length));
    }
    job.importance = std::move(measured.importance);
    job.calibration_sha256 = std::move(measured.text_sha256);
    job.calibration_windows = measured.windows;
    job.calibration_length = measured.length;
    return absl::OkStatus();
  }
  if (flags.imatrix.empty()) return absl::OkStatus();
  NIBBLE_ASSIGN_OR_RETURN(job.importance, Importance::Read(flags.imatrix));
  NIBBLE_ASSIGN_OR_RETURN(job.importance_sha256, FileSha256(flags.imatrix));
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
  if (!flags.calibration.empty()) {
    parts.push_back(
        absl::StrCat("--calibration --calibration-windows ", flags.calibration_windows));
  }
  if (!flags.calibration.empty() || !flags.byte_budget.empty()) {
    parts.push_back(
        absl::StrCat("--calibration-length ", flags.calibration_length, " --seed ", flags.seed));
  }
  if (!flags.byte_budget.empty()) {
    parts.push_back(absl::StrCat("--byte-budget ", flags.byte_budget, " --budget-types ",
                                 flags.budget_types, " --budget-windows ", flags.budget_windows));
  }
  return absl::StrJoin(parts, " ");
}

void WarnAboutPlan(const std::vector<TensorRecipe>& recipes, const Job& job, const Io& io) {
  if (SourceIsQuantized(recipes)) {
    Warn(io, kQuantizedTwice);
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

}  // namespace

absl::Status CheckTypeFlags(const QuantizeFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckImportanceFlags(flags));
  NIBBLE_RETURN_IF_ERROR(CheckBudgetFlags(flags));
  NIBBLE_RETURN_IF_ERROR(CheckAllUsed(flags, nullptr));
  return MakeJob(flags).status();
}

// Until tensors are converted Ctrl-C ends the process: there is nothing to clean up.
absl::StatusOr<QuantizeSummary> QuantizeToTypes(const QuantizeFlags& flags, Interrupt& interrupt,
                                                const Io& io) {
  NIBBLE_ASSIGN_OR_RETURN(Job job, MakeJob(flags));
  NIBBLE_ASSIGN_OR_RETURN(const QuantizeSource source, QuantizeSource::Open(flags.model));
  WarnIfNotServed(source, io);
  NIBBLE_ASSIGN_OR_RETURN(std::vector<TensorRecipe> recipes,
                          PlanTensors(source.tensors(), job.recipe));
  NIBBLE_RETURN_IF_ERROR(ReadImportance(flags, io, job));
  QuantizeSummary summary;
  if (MeasuresTensors(flags)) {
    const Importance* importance = job.recipe.has_importance ? &job.importance : nullptr;
    NIBBLE_ASSIGN_OR_RETURN(summary.sensitivity,
                            MeasureTensors(flags, recipes, importance, interrupt, io));
  }
  if (!flags.byte_budget.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<TypeOverride> chosen,
                            OverridesWithin(flags, recipes, summary.sensitivity));
    job.recipe.overrides.insert(job.recipe.overrides.end(), chosen.begin(), chosen.end());
    NIBBLE_ASSIGN_OR_RETURN(recipes, PlanTensors(source.tensors(), job.recipe));
  }
  WarnAboutPlan(recipes, job, io);
  QuantizeOptions options;
  NIBBLE_ASSIGN_OR_RETURN(options.keys, source.Keys());
  summary.type = job.recipe.mix.name;
  summary.calibration_windows = job.calibration_windows;
  summary.calibration_length = job.calibration_length;
  if (flags.dry_run) {
    summary.report = PlannedReport(source.tensors(), recipes);
    return summary;
  }
  NIBBLE_ASSIGN_OR_RETURN(options.provenance.source_sha256, source.Sha256());
  const SteadyClock clock;
  Progress progress(io.err, io.err_is_terminal, "quantizing", nullptr, &clock);
  options.mix = job.recipe.mix;
  options.output = flags.output;
  options.provenance.options = OptionsText(flags);
  options.provenance.tool = absl::StrCat("nibble ", kVersion);
  NIBBLE_ASSIGN_OR_RETURN(options.num_threads, NumThreads(flags.threads));
  options.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  if (job.recipe.has_importance) {
    options.importance = &job.importance;
    options.provenance.importance_sha256 = job.importance_sha256;
    options.provenance.calibration_sha256 = job.calibration_sha256;
  }
  const Cancellation cancellation(interrupt);
  options.cancelled = &cancellation.flag();
  NIBBLE_ASSIGN_OR_RETURN(summary.report, QuantizeGguf(source.tensors(), recipes, options));
  return summary;
}

}  // namespace nibble

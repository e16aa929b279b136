#include "cli/quantize_folder.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/interrupt.h"
#include "cli/method_name.h"
#include "cli/method_run.h"
#include "cli/peak_memory.h"
#include "cli/version.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/hf_folder_files.h"
#include "engine/quantize/folder/hf_folder_sink.h"
#include "engine/quantize/folder/matrix_packing.h"

namespace nibble {
namespace {

using quantize::HfLayout;
using quantize::Method;

// What --method and --layout come to.
struct Target {
  Method method;  // as the layout needs it
  HfLayout layout = HfLayout::kPlain;
};

// Without a method the weights are only stored in another form.
absl::StatusOr<Method> MethodOf(const QuantizeFlags& flags) {
  if (!flags.method.empty()) return ParseMethodFlags(flags.method, flags.scheme, flags.order);
  Method none;
  none.name = "none";
  none.algorithm = quantize::Algorithm::kNone;
  return none;
}

absl::StatusOr<Target> TargetOf(const QuantizeFlags& flags) {
  Target target;
  NIBBLE_ASSIGN_OR_RETURN(const Method method, MethodOf(flags));
  if (flags.layout == "auto") {
    target.layout = flags.method.empty() ? HfLayout::kPlain : quantize::UsualLayout(method);
  } else {
    absl::StatusOr<HfLayout> layout = quantize::ParseHfLayout(flags.layout);
    if (!layout.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--layout: ", layout.status().message(), ", auto"));
    }
    target.layout = *layout;
  }
  const bool codes = target.layout != HfLayout::kPlain;
  if (codes && flags.method.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--layout ", flags.layout, ": holds codes, which a --method chooses; plain holds none"));
  }
  if (!codes && !flags.method.empty() && !method.incoherent) {
    return absl::InvalidArgumentError(absl::StrCat("--layout ", flags.layout,
                                                   ": holds no codes; leave --method out, or take ",
                                                   LayoutName(quantize::UsualLayout(method))));
  }
  absl::StatusOr<Method> fitting = quantize::InLayout(target.layout, method);
  if (!fitting.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--layout: ", fitting.status().message()));
  }
  target.method = *std::move(fitting);
  return target;
}

absl::Status OnlyForFiles(const QuantizeFlags& flags) {
  const std::pair<bool, const char*> kOthers[] = {{!flags.type.empty(), "--type"},
                                                  {!flags.tensor_types.empty(), "--tensor-type"},
                                                  {flags.pure, "--pure"},
                                                  {flags.dry_run, "--dry-run"},
                                                  {flags.overwrite, "--overwrite"}};
  for (const auto& [given, name] : kOthers) {
    if (!given) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, ": is for GGUF files; --layout ",
                                                   flags.layout, " writes a folder, a new one"));
  }
  return absl::OkStatus();
}

struct Summary {
  Target target;
  std::string source_sha256;
  int64_t output_bytes = 0;
  quantize::ModelReport report;
  CalibrationText text;
  double seconds = 0;
  int64_t peak_bytes = 0;  // resident; 0: unknown
};

absl::StatusOr<Summary> Quantize(const QuantizeFlags& flags, Interrupt& interrupt, const Io& io) {
  Summary summary;
  NIBBLE_ASSIGN_OR_RETURN(summary.target, TargetOf(flags));
  const Method& method = summary.target.method;
  NIBBLE_ASSIGN_OR_RETURN(const QuantizeSource source, QuantizeSource::Open(flags.model));
  NIBBLE_ASSIGN_OR_RETURN(const ModelConfig config, source.file().Config());
  NIBBLE_ASSIGN_OR_RETURN(HfFolderFiles files, HfFolderFilesOf(source.file()));
  const auto tensors = source.tensors().tensors();
  if (std::any_of(tensors.begin(), tensors.end(), [](const auto& t) { return t.quantized; })) {
    Warn(io, kQuantizedTwice);
  }
  NIBBLE_ASSIGN_OR_RETURN(summary.text, CalibrationFor(flags, method, source, config));
  NIBBLE_ASSIGN_OR_RETURN(summary.source_sha256, source.Sha256());
  NIBBLE_ASSIGN_OR_RETURN(const int32_t threads, NumThreads(flags.threads));
  quantize::HfFolderSink sink({.output = flags.output,
                               .layout = summary.target.layout,
                               .config_json = std::move(files.config_json),
                               .files = std::move(files.files)});
  quantize::ModelPlan plan = PlanModel(source.tensors(), config, method, sink);
  plan.damping = flags.damping;
  plan.provenance = {.source_sha256 = summary.source_sha256,
                     .method = method.name,
                     .options = MethodOptionsText(flags, method),
                     .calibration_sha256 = summary.text.sha256,
                     .tool = absl::StrCat("nibble ", kVersion)};
  NIBBLE_ASSIGN_OR_RETURN(
      summary.report, RunMethod(flags, source, plan, summary.text, threads, interrupt, io, sink));
  summary.output_bytes = sink.size_bytes();
  return summary;
}

nlohmann::ordered_json SummaryJson(const QuantizeFlags& flags, const Summary& summary) {
  std::map<std::string, double> outputs;
  for (const quantize::LinearReport& linear : summary.report.linears) {
    if (linear.output_error >= 0) outputs[linear.name] = linear.output_error;
  }
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const quantize::TensorError& error : summary.report.errors) {
    nlohmann::ordered_json tensor = {{"name", error.name},
                                     {"relative_error", error.relative_error}};
    if (outputs.count(error.name) != 0) tensor["output_error"] = outputs[error.name];
    tensors.push_back(std::move(tensor));
  }
  nlohmann::ordered_json json = {{"model", flags.model},
                                 {"method", summary.target.method.name},
                                 {"layout", std::string(LayoutName(summary.target.layout))},
                                 {"tensors", std::move(tensors)},
                                 {"output", flags.output},
                                 {"output_bytes", summary.output_bytes},
                                 {"source_sha256", summary.source_sha256}};
  if (!summary.text.windows.empty()) {
    json["calibration"] = {{"windows", summary.text.windows.size()},
                           {"length", summary.text.length}};
  }
  json["seconds"] = summary.seconds;
  json["peak_bytes"] = summary.peak_bytes;
  return json;
}

void PrintSummary(const QuantizeFlags& flags, const Summary& summary, std::ostream& out) {
  for (const quantize::TensorError& error : summary.report.errors) {
    if (error.relative_error == 0) continue;
    out << absl::StrFormat("%-32s  relative error %.5f\n", error.name, error.relative_error);
  }
  out << absl::StrFormat("%s: %s as %s, %.1f MiB, %.1f s\n", flags.output,
                         summary.target.method.name, std::string(LayoutName(summary.target.layout)),
                         static_cast<double>(summary.output_bytes) / (1 << 20), summary.seconds);
}

}  // namespace

absl::Status CheckFolderFlags(const QuantizeFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(OnlyForFiles(flags));
  NIBBLE_ASSIGN_OR_RETURN(const Target target, TargetOf(flags));
  return CheckTexts(flags, target.method);
}

int RunQuantizeToFolder(const QuantizeFlags& flags, const Io& io) {
  const SteadyClock clock;
  const Instant start = clock.Now();
  const bool measured = ResetPeakMemory();
  Interrupt interrupt;
  absl::StatusOr<Summary> summary = Quantize(flags, interrupt, io);
  if (absl::IsCancelled(summary.status())) {
    Fail(io, summary.status());
    return kExitInterrupted;
  }
  if (!summary.ok()) {
    return absl::IsInvalidArgument(summary.status()) ? WrongUsage(io, summary.status())
                                                     : Fail(io, summary.status());
  }
  summary->seconds = std::chrono::duration<double>(clock.Now() - start).count();
  summary->peak_bytes = measured ? PeakMemoryBytes() : 0;
  if (flags.format == OutputFormat::kJson) {
    PrintJson(io.out, SummaryJson(flags, *summary), 2);
  } else {
    PrintSummary(flags, *summary, io.out);
  }
  return kExitOk;
}

}  // namespace nibble

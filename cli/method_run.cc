#include "cli/method_run.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/progress.h"
#include "cli/quantize_resume.h"
#include "cli/quantize_unused.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/model/work_folder.h"

namespace nibble {

using quantize::Algorithm;
using quantize::Method;

absl::StatusOr<CalibrationText> CalibrationFor(const QuantizeFlags& flags, const Method& method,
                                               const QuantizeSource& source,
                                               const ModelConfig& config) {
  if (!quantize::NeedsCalibration(method)) return CalibrationText();
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                          source.file().LoadTokenizer());
  const CalibrationOptions options = {.path = flags.calibration,
                                      .windows = flags.calibration_windows,
                                      .length = flags.calibration_length,
                                      .seed = flags.seed};
  return ReadCalibration(options, config, *tokenizer);
}

absl::Status CheckTexts(const QuantizeFlags& flags, const Method& method) {
  if (!flags.imatrix.empty() || !flags.imatrix_output.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.imatrix.empty() ? "--imatrix-output" : "--imatrix",
                     ": importance weighs ggml's types (--type), --method ", method.name,
                     " looks at the text itself (--calibration)"));
  }
  if (!flags.calibration.empty() && !quantize::NeedsCalibration(method)) {
    return absl::InvalidArgumentError(absl::StrCat("--calibration: --method ", method.name,
                                                   " looks at no text; leave it out, or take gptq, "
                                                   "awq, clip or smoothquant"));
  }
  return CheckAllUsed(flags, &method);
}

std::string MethodOptionsText(const QuantizeFlags& flags, const Method& method) {
  std::vector<std::string> parts;
  if (method.algorithm == Algorithm::kGptq) {
    parts.push_back(absl::StrCat("--damping ", flags.damping));
  }
  if (method.algorithm == Algorithm::kSmoothQuant) {
    parts.push_back(absl::StrCat("--smooth-alpha ", flags.smooth_alpha));
  }
  if (quantize::NeedsCalibration(method)) {
    if (!flags.calibration.empty()) parts.emplace_back("--calibration");
    parts.push_back(absl::StrCat("--calibration-windows ", flags.calibration_windows,
                                 " --calibration-length ", flags.calibration_length, " --seed ",
                                 flags.seed));
  } else if (method.incoherent) {
    parts.push_back(absl::StrCat("--seed ", flags.seed));
  }
  return absl::StrJoin(parts, " ");
}

absl::StatusOr<quantize::ModelReport> RunMethod(const QuantizeFlags& flags,
                                                const QuantizeSource& source,
                                                const quantize::ModelPlan& plan,
                                                const CalibrationText& text, int32_t threads,
                                                Interrupt& interrupt, const Io& io,
                                                quantize::ModelSink& sink) {
  const SteadyClock clock;
  Progress layers(io.err, io.err_is_terminal, plan.method.name, nullptr, &clock);
  std::unique_ptr<Progress> rest;  // from its first call on
  std::atomic<bool> cancelled{false};
  quantize::LayerwiseOptions options;
  options.damping = flags.damping;
  options.smooth_alpha = static_cast<float>(flags.smooth_alpha);
  options.seed = flags.seed;
  options.threads = threads;
  options.cancelled = &cancelled;
  options.progress = [&](int64_t done, int64_t total) { layers.Update(done, total); };
  const auto write = [&](int64_t done, int64_t total) {
    if (rest == nullptr) {
      rest = std::make_unique<Progress>(io.err, io.err_is_terminal, "embedding and head", nullptr,
                                        &clock);
    }
    rest->Update(done, total);
  };
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<quantize::WorkFolder> work,
                          OpenWork(flags, plan, options, text.windows, io));
  if (work != nullptr) {
    options.journal = work.get();
    options.scratch_folder = work->path();
  }
  interrupt.OnInterrupt([&cancelled] { cancelled.store(true); });
  const std::unique_ptr<WeightSource> weights = source.file().Source(plan.config);
  absl::StatusOr<quantize::ModelReport> report = QuantizeModel(
      source.tensors(), *weights, plan, text.windows, std::move(options), write, sink);
  interrupt.OnInterrupt(nullptr);
  if (work == nullptr) return report;
  if (!report.ok()) return WithWhatIsKept(report.status(), *work, plan.config.num_layers);
  work->Remove();
  return report;
}

}  // namespace nibble

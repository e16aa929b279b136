#include "cli/quantize_budget.h"

#include <stdlib.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "cli/calibration_text.h"
#include "cli/cancellable_runner.h"
#include "cli/eval_text.h"
#include "cli/local_model.h"
#include "cli/parse.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/eval/base_file.h"
#include "engine/eval/divergence.h"
#include "engine/quantize/calibration/replaced_weights.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/quantize/sensitivity.h"
#include "engine/weights/partial_file.h"

namespace nibble {
namespace {

// Its blocks of 32 fill the rows of every model, and what it loses is far above a run's noise.
constexpr GgmlType kProbe = GgmlType::kQ4_0;

absl::StatusOr<std::vector<GgmlType>> BudgetTypes(const QuantizeFlags& flags) {
  std::vector<GgmlType> types;
  for (absl::string_view name : absl::StrSplit(flags.budget_types, ',', absl::SkipEmpty())) {
    const absl::StatusOr<GgmlType> type = ParseEncodableType(name);
    if (!type.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--budget-types: ", type.status().message()));
    }
    types.push_back(*type);
  }
  if (types.empty()) return absl::InvalidArgumentError("--budget-types: found none");
  return types;
}

absl::StatusOr<int64_t> Budget(const QuantizeFlags& flags) {
  absl::StatusOr<int64_t> bytes = ParseBytes(flags.byte_budget);
  if (bytes.ok() && *bytes > 0) return bytes;
  return absl::InvalidArgumentError(absl::StrCat("--byte-budget: found \"", flags.byte_budget,
                                                 "\", needed bytes, as 90000000 or 86MB"));
}

// Those that have a type by the mix, the one they have already among them, and by no pattern of
// --tensor-type, and whose rows the probe's blocks fill.
absl::StatusOr<std::vector<ProbedTensor>> Measurable(const QuantizeFlags& flags,
                                                     absl::Span<const TensorRecipe> recipes) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<TypeOverride> overrides,
                          ParseTensorTypes(flags.tensor_types));
  std::vector<ProbedTensor> tensors;
  for (const TensorRecipe& recipe : recipes) {
    if (!recipe.quantizable || recipe.dims.size() != 2) continue;
    if (recipe.dims[0] % TypeInfo(static_cast<int32_t>(kProbe)).block_elements != 0) continue;
    bool named = false;
    for (const TypeOverride& override : overrides) {
      named = named || std::regex_search(recipe.name, std::regex(override.pattern));
    }
    if (named) continue;
    tensors.push_back({.name = recipe.name,
                       .rows = static_cast<int32_t>(recipe.dims[1]),
                       .cols = static_cast<int32_t>(recipe.dims[0])});
  }
  if (!tensors.empty()) return tensors;
  return absl::InvalidArgumentError(absl::StrCat(
      flags.byte_budget.empty() ? "--sensitivity" : "--byte-budget",
      ": found no tensor to choose a type for: those that --tensor-type names, vectors and rows "
      "that are no multiple of 32 keep theirs"));
}

int64_t ElementsOf(const TensorRecipe& recipe) {
  int64_t elements = 1;
  for (int64_t size : recipe.dims) elements *= size;
  return elements;
}

// The model, and what it says of a text with one tensor changed.
class Damage {
 public:
  absl::Status Open(const QuantizeFlags& flags) {
    flags_.model = flags.model;
    flags_.cpu.num_threads = flags.threads;
    flags_.cpu.activations = CpuActivations::kF32;
    NIBBLE_ASSIGN_OR_RETURN(model_, OpenLocalModel(flags_, {}));
    CalibrationOptions options;
    options.path = flags.calibration;
    options.windows = flags.budget_windows;
    options.length = flags.calibration_length;
    options.seed = flags.seed;
    NIBBLE_ASSIGN_OR_RETURN(const CalibrationText text,
                            ReadCalibration(options, model_.config, *model_.tokenizer));
    ids_ = text.Joined();
    windows_.window = text.length;
    source_ = model_.file->Source(model_.config);
    return LoadWeights(model_, OneWindowRunner(flags_, text.length, model_.config), {});
  }

  // What the whole model says, in a file that loses its name as soon as it is open; the model
  // itself is then no longer needed. From now on `cancelled` is looked at between steps.
  absl::Status KeepBase(const std::string& output, const std::atomic<bool>& cancelled,
                        const std::function<void(int64_t, int64_t)>& progress) {
    cancelled_ = &cancelled;
    std::error_code ignored;
    std::filesystem::path folder = std::filesystem::path(output).parent_path();
    if (output.empty()) folder = std::filesystem::temp_directory_path(ignored);
    std::string scratch = (folder / "nibble-base.XXXXXX").string();
    if (mkdtemp(scratch.data()) == nullptr) return FileError(scratch, "creating it", errno);
    const std::string path = scratch + "/base";
    CancellableRunner runner(*model_.runner, cancelled);
    absl::Status status =
        SaveBaseFile(runner, ids_, windows_, "the source", path, progress).status();
    if (status.ok()) {
      absl::StatusOr<std::unique_ptr<BaseFile>> base = BaseFile::Open(path);
      status = base.status();
      if (base.ok()) base_ = *std::move(base);
    }
    std::filesystem::remove_all(scratch, ignored);
    model_.runner.reset();
    return status;
  }

  const WeightSource& source() const { return *source_; }
  int threads() const { return model_.backend->Info().num_threads; }

  absl::StatusOr<double> Of(const std::string& name, const quantize::MatrixF& values) {
    quantize::ReplacedWeights weights(*source_);
    NIBBLE_RETURN_IF_ERROR(weights.Matrix(name, values, nullptr));
    NIBBLE_ASSIGN_OR_RETURN(
        const std::unique_ptr<DeviceRunner> runner,
        DeviceRunner::Create(*model_.backend, model_.config, weights,
                             OneWindowRunner(flags_, windows_.window, model_.config), {}));
    CancellableRunner cancellable(*runner, *cancelled_);
    NIBBLE_ASSIGN_OR_RETURN(const DivergenceResult result,
                            EvaluateDivergence(*base_, cancellable, ids_, windows_, nullptr));
    return result.kl.mean;
  }

 private:
  const std::atomic<bool>* cancelled_ = nullptr;
  ModelFlags flags_;
  LocalModel model_;
  std::unique_ptr<WeightSource> source_;
  std::unique_ptr<BaseFile> base_;
  std::vector<int32_t> ids_;
  WindowOptions windows_;
};

absl::StatusOr<std::vector<TensorChoices>> Measure(const QuantizeFlags& flags,
                                                   absl::Span<const ProbedTensor> tensors,
                                                   SensitivityOptions options, Interrupt& interrupt,
                                                   const Io& io) {
  Damage damage;
  NIBBLE_RETURN_IF_ERROR(damage.Open(flags));  // Ctrl-C ends the process: there is no file yet
  const Cancellation cancellation(interrupt);
  const SteadyClock clock;
  {
    Progress progress(io.err, io.err_is_terminal, "reading the text", nullptr, &clock);
    NIBBLE_RETURN_IF_ERROR(
        damage.KeepBase(flags.output, cancellation.flag(),
                        [&](int64_t done, int64_t total) { progress.Update(done, total); }));
  }
  options.threads = damage.threads();
  options.damage = [&](const std::string& name, const quantize::MatrixF& values) {
    return damage.Of(name, values);
  };
  Progress progress(io.err, io.err_is_terminal, "measuring tensors", nullptr, &clock);
  options.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  return MeasureSensitivity(damage.source(), tensors, options);
}

}  // namespace

bool MeasuresTensors(const QuantizeFlags& flags) {
  return flags.sensitivity || !flags.byte_budget.empty();
}

absl::Status CheckBudgetFlags(const QuantizeFlags& flags) {
  if (!MeasuresTensors(flags)) return absl::OkStatus();
  if (flags.pure) {
    return absl::InvalidArgumentError(
        "--pure: gives every tensor the same type, and a budget or --sensitivity is about "
        "different ones; leave one out");
  }
  NIBBLE_RETURN_IF_ERROR(BudgetTypes(flags).status());
  return flags.byte_budget.empty() ? absl::OkStatus() : Budget(flags).status();
}

absl::StatusOr<std::vector<TensorChoices>> MeasureTensors(const QuantizeFlags& flags,
                                                          absl::Span<const TensorRecipe> recipes,
                                                          const Importance* importance,
                                                          Interrupt& interrupt, const Io& io) {
  SensitivityOptions options;
  options.probe = kProbe;
  options.importance = importance;
  NIBBLE_ASSIGN_OR_RETURN(options.types, BudgetTypes(flags));
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<ProbedTensor> tensors, Measurable(flags, recipes));
  absl::StatusOr<std::vector<TensorChoices>> measured =
      Measure(flags, tensors, options, interrupt, io);
  // A signal that came when nothing looked any more; what follows is long.
  if (measured.ok() && interrupt.seen()) return absl::CancelledError("stopped after measuring");
  return measured;
}

absl::StatusOr<std::vector<TypeOverride>> OverridesWithin(
    const QuantizeFlags& flags, absl::Span<const TensorRecipe> recipes,
    absl::Span<const TensorChoices> measured) {
  NIBBLE_ASSIGN_OR_RETURN(const int64_t budget, Budget(flags));
  std::set<absl::string_view> chosen_here;
  for (const TensorChoices& tensor : measured) chosen_here.insert(tensor.name);
  int64_t others = 0;
  for (const TensorRecipe& recipe : recipes) {
    if (chosen_here.count(recipe.name) == 0) others += BytesOf(recipe.target, ElementsOf(recipe));
  }
  const absl::StatusOr<std::vector<size_t>> chosen = SpendBudget(measured, budget - others);
  if (!chosen.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--byte-budget ", flags.byte_budget, ", less ", others,
                     " bytes of tensors that stay: ", chosen.status().message()));
  }
  std::vector<TypeOverride> overrides;
  for (size_t t = 0; t < measured.size(); ++t) {
    overrides.push_back(
        {.pattern = absl::StrCat("^", absl::StrReplaceAll(measured[t].name, {{".", "\\."}}), "$"),
         .type = measured[t].choices[(*chosen)[t]].type});
  }
  return overrides;
}

}  // namespace nibble

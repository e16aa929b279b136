#include "cli/quantize_method.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/method_name.h"
#include "cli/method_run.h"
#include "cli/version.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/model/gguf_sink.h"
#include "engine/quantize/model/quantize_model.h"
#include "engine/quantize_source.h"

namespace nibble {
namespace {

using quantize::Method;

absl::StatusOr<Method> MethodOf(const QuantizeFlags& flags) {
  NIBBLE_ASSIGN_OR_RETURN(Method method, ParseMethodFlags(flags.method, flags.scheme, flags.order));
  absl::StatusOr<Method> stored = quantize::ForGguf(std::move(method));
  if (stored.ok()) return stored;
  return absl::InvalidArgumentError(absl::StrCat("--method: ", stored.status().message()));
}

// The mix of the tensors that the method leaves. --type may say what is so anyway.
absl::StatusOr<MixInfo> MixOf(const QuantizeFlags& flags, const Method& method) {
  const MixInfo mix = quantize::MixFor(method);
  if (flags.type.empty()) return mix;
  NIBBLE_ASSIGN_OR_RETURN(const MixInfo asked, ParseTypeFlag(flags.type));
  if (asked.base == mix.base) return asked;
  return absl::InvalidArgumentError(
      absl::StrCat("--type ", flags.type, ": its blocks are ", NameOf(asked.base), ", --method ",
                   method.name, " fills ", NameOf(mix.base), "; give --type ", mix.name,
                   " or none, or --type ", flags.type, " without --method"));
}

// --pure and --tensor-type beside the method's own.
std::string OptionsText(const QuantizeFlags& flags, const Method& method) {
  std::vector<std::string> parts;
  const std::string of_method = MethodOptionsText(flags, method);
  if (!of_method.empty()) parts.push_back(of_method);
  if (flags.pure) parts.emplace_back("--pure");
  for (const std::string& text : flags.tensor_types) {
    parts.push_back(absl::StrCat("--tensor-type ", text));
  }
  return absl::StrJoin(parts, " ");
}

// One quantization, in the order of its steps.
class MethodRun {
 public:
  MethodRun(const QuantizeFlags& flags, const Io& io) : flags_(flags), io_(io) {}

  absl::Status Open() {
    NIBBLE_ASSIGN_OR_RETURN(method_, MethodOf(flags_));
    NIBBLE_ASSIGN_OR_RETURN(mix_, MixOf(flags_, method_));
    NIBBLE_ASSIGN_OR_RETURN(QuantizeSource source, QuantizeSource::Open(flags_.model));
    source_ = std::make_unique<QuantizeSource>(std::move(source));
    NIBBLE_ASSIGN_OR_RETURN(config_, source_->file().Config());
    RecipeOptions recipe;
    recipe.mix = mix_;
    recipe.pure = flags_.pure;
    NIBBLE_ASSIGN_OR_RETURN(recipe.overrides, ParseTensorTypes(flags_.tensor_types));
    NIBBLE_ASSIGN_OR_RETURN(recipes_, PlanTensors(source_->tensors(), recipe));
    NIBBLE_RETURN_IF_ERROR(CheckGroups());
    return WarnOfPlan();
  }

  absl::StatusOr<QuantizeSummary> Run(Interrupt& interrupt) {
    QuantizeSummary summary;
    summary.method = method_.name;
    summary.type = mix_.name;
    summary.report = PlannedReport(source_->tensors(), recipes_);
    NIBBLE_ASSIGN_OR_RETURN(GgufKeys keys, source_->Keys());
    if (flags_.dry_run) return summary;
    NIBBLE_ASSIGN_OR_RETURN(const CalibrationText text,
                            CalibrationFor(flags_, method_, *source_, config_));
    NIBBLE_ASSIGN_OR_RETURN(summary.report.source_sha256, source_->Sha256());
    NIBBLE_ASSIGN_OR_RETURN(const int32_t threads, NumThreads(flags_.threads));
    quantize::GgufSink sink({.output = flags_.output,
                             .keys = std::move(keys),
                             .mix = mix_,
                             .method = method_,
                             .recipes = recipes_,
                             .threads = threads});
    quantize::ModelPlan plan = PlanModel(source_->tensors(), config_, method_, sink);
    plan.damping = flags_.damping;
    plan.provenance = {.source_sha256 = summary.report.source_sha256,
                       .options = OptionsText(flags_, method_),
                       .calibration_sha256 = text.sha256,
                       .tool = absl::StrCat("nibble ", kVersion)};
    NIBBLE_ASSIGN_OR_RETURN(const quantize::ModelReport report,
                            RunMethod(flags_, *source_, plan, text, threads, interrupt, io_, sink));
    summary.report.output_bytes = sink.size_bytes();
    summary.calibration_windows = static_cast<int32_t>(text.windows.size());
    summary.calibration_length = text.length;
    Tell(report, summary);
    return summary;
  }

 private:
  // What QuantizeLayers would say after a while of work.
  absl::Status CheckGroups() const {
    for (const TensorRecipe& recipe : recipes_) {
      const bool coded = recipe.dims.size() == 2 && recipe.target == mix_.base &&
                         recipe.name != "token_embd.weight" && recipe.name != "output.weight";
      if (!coded) continue;
      const absl::Status fits =
          quantize::CheckShape(method_.scheme, static_cast<int32_t>(recipe.dims[1]),
                               static_cast<int32_t>(recipe.dims[0]));
      if (fits.ok()) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "--scheme: tensor '", recipe.name, "': ", fits.message(), "; g32 and g64 divide more"));
    }
    return absl::OkStatus();
  }

  absl::Status WarnOfPlan() const {
    const bool quantized =
        std::any_of(source_->tensors().tensors().begin(), source_->tensors().tensors().end(),
                    [](const SourceTensor& tensor) { return tensor.quantized; });
    if (quantized) Warn(io_, kQuantizedTwice);
    for (const TensorRecipe& recipe : recipes_) {
      if (!recipe.note.empty()) Warn(io_, absl::StrCat(recipe.name, ": ", recipe.note));
    }
    const int held = TypeInfo(static_cast<int32_t>(mix_.base)).name[1] - '0';
    if (method_.scheme.bits < held) {
      Warn(io_, absl::StrCat("codes of ", method_.scheme.bits, " bits take the ", held, " of ",
                             NameOf(mix_.base), ": no ggml type keeps them narrower"));
    }
    return absl::OkStatus();
  }

  static void Tell(const quantize::ModelReport& report, QuantizeSummary& summary) {
    for (size_t t = 0; t < report.errors.size(); ++t) {
      summary.report.tensors[t].relative_error = report.errors[t].relative_error;
    }
    for (const quantize::LinearReport& linear : report.linears) {
      if (linear.output_error >= 0) summary.output_errors[linear.name] = linear.output_error;
    }
  }

  const QuantizeFlags& flags_;
  const Io& io_;
  Method method_;
  MixInfo mix_;
  std::unique_ptr<QuantizeSource> source_;
  ModelConfig config_;
  std::vector<TensorRecipe> recipes_;
};

}  // namespace

absl::Status CheckMethodFlags(const QuantizeFlags& flags) {
  NIBBLE_ASSIGN_OR_RETURN(const Method method, MethodOf(flags));
  NIBBLE_RETURN_IF_ERROR(MixOf(flags, method).status());
  NIBBLE_RETURN_IF_ERROR(ParseTensorTypes(flags.tensor_types).status());
  return CheckTexts(flags, method);
}

absl::StatusOr<QuantizeSummary> QuantizeByMethod(const QuantizeFlags& flags, Interrupt& interrupt,
                                                 const Io& io) {
  MethodRun run(flags, io);
  NIBBLE_RETURN_IF_ERROR(run.Open());
  return run.Run(interrupt);
}

}  // namespace nibble

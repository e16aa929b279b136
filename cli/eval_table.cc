#include "cli/eval_table.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/bench.h"
#include "cli/calibration_text.h"
#include "cli/eval_table_mix.h"
#include "cli/interrupt.h"
#include "cli/local_model.h"
#include "cli/peak_memory.h"
#include "cli/progress.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/calibration/layerwise.h"
#include "engine/quantize/calibration/reference_runner.h"
#include "engine/quantize/calibration/replaced_weights.h"

namespace nibble {
namespace {

using quantize::Activations;
using quantize::Method;
using Windows = std::vector<std::vector<int32_t>>;

constexpr absl::string_view kMixPrefix = "ggml-";
constexpr int32_t kDecodeContext = 64;  // tokens before those that speed is measured by

// One name of --methods: a mix of ggml's types, or a method.
struct Candidate {
  std::optional<MixInfo> mix;
  Method method;
};

absl::StatusOr<std::vector<Candidate>> Candidates(const TableFlags& flags) {
  std::vector<Candidate> methods;
  for (absl::string_view name : absl::StrSplit(flags.methods, ',', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&name, kMixPrefix)) {
      NIBBLE_ASSIGN_OR_RETURN(MixInfo mix, ParseMix(name));
      methods.push_back({.mix = std::move(mix), .method = {}});
      continue;
    }
    NIBBLE_ASSIGN_OR_RETURN(Method method, quantize::ParseMethod(name));
    if (quantize::NeedsCalibration(method) && flags.calibration.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--calibration: found nothing, method ", name, " needs a text"));
    }
    methods.push_back({.mix = std::nullopt, .method = std::move(method)});
  }
  if (methods.empty()) return absl::InvalidArgumentError("--methods: found none");
  return methods;
}

absl::Status Validate(const TableFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  NIBBLE_RETURN_IF_ERROR(CheckTextFlags(flags.text));
  return Candidates(flags).status();
}

absl::StatusOr<Windows> CalibrationWindows(const TableFlags& flags, const Tokenizer& tokenizer) {
  if (flags.calibration.empty()) return Windows();
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadTextFile("--calibration", flags.calibration));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, TokenizeText(flags.text, file, tokenizer));
  NIBBLE_ASSIGN_OR_RETURN(Windows windows, CutCalibration(text.ids, flags.text.window,
                                                          text.windows.bos_id, "--window"));
  if (windows.size() > static_cast<size_t>(flags.calibration_windows)) {
    windows.resize(flags.calibration_windows);
  }
  return windows;
}

// Bytes of the model with these matrices quantized, the others as in the file.
int64_t BytesWith(const WeightSource& source, const std::vector<quantize::LinearReport>& linears) {
  std::map<std::string, double> quantized;
  for (const quantize::LinearReport& linear : linears) {
    quantized[linear.name] = linear.bits * static_cast<double>(linear.elements) / 8;
  }
  double bytes = 0;
  for (const TensorReport& tensor : source.Report()) {
    const auto found = quantized.find(tensor.name);
    bytes += found != quantized.end() ? found->second : static_cast<double>(tensor.file_bytes);
  }
  return std::llround(bytes);
}

double MeanBits(const std::vector<quantize::LinearReport>& linears) {
  double bits = 0, elements = 0;
  for (const quantize::LinearReport& linear : linears) {
    bits += linear.bits * static_cast<double>(linear.elements);
    elements += static_cast<double>(linear.elements);
  }
  return elements > 0 ? bits / elements : 0;
}

// Makes the rows, one method after the other, all against the same base.
class Table {
 public:
  Table(const TableFlags& flags, Interrupt& interrupt, const Io& io)
      : flags_(flags), interrupt_(interrupt), io_(io) {}

  absl::Status Run() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<Candidate> candidates, Candidates(flags_));
    NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(flags_.text));
    NIBBLE_ASSIGN_OR_RETURN(base_, OpenLocalModel(flags_.model, {}));
    NIBBLE_RETURN_IF_ERROR(CheckWindowFits(flags_.text, base_.config));
    NIBBLE_RETURN_IF_ERROR(CheckDecodeFits());
    NIBBLE_ASSIGN_OR_RETURN(text_, TokenizeText(flags_.text, file, *base_.tokenizer));
    NIBBLE_ASSIGN_OR_RETURN(calibration_, CalibrationWindows(flags_, *base_.tokenizer));
    NIBBLE_RETURN_IF_ERROR(LoadWeights(base_, RunnerFor(flags_.text.window), {}));
    source_ = base_.file->Source(base_.config);
    NIBBLE_RETURN_IF_ERROR(AddBase());
    for (const Candidate& candidate : candidates) {
      NIBBLE_RETURN_IF_ERROR(candidate.mix.has_value() ? AddMix(*candidate.mix)
                                                       : AddMethod(candidate.method));
    }
    return absl::OkStatus();
  }

  const std::vector<TableRow>& rows() const { return rows_; }
  const WindowOptions& windows() const { return text_.windows; }

 private:
  RunnerOptions RunnerFor(int32_t context) const {
    return OneWindowRunner(flags_.model, context, base_.config);
  }

  absl::Status AddBase() {
    TableRow row;
    row.method = "as it is";
    row.bytes = BytesWith(*source_, {});
    int64_t elements = 0;
    for (const TensorReport& tensor : source_->Report()) {
      int64_t n = 1;
      for (int64_t size : tensor.shape) n *= size;
      elements += n;
    }
    row.bits = 8.0 * static_cast<double>(row.bytes) / static_cast<double>(elements);
    NIBBLE_RETURN_IF_ERROR(Speed(*source_, row));
    rows_.push_back(std::move(row));
    return absl::OkStatus();
  }

  absl::Status AddMethod(const Method& method) {
    TableRow row;
    row.method = method.name;
    quantize::ReplacedWeights weights(*source_);
    NIBBLE_RETURN_IF_ERROR(Quantize(method, weights, row));
    std::unique_ptr<LogitsRunner> candidate;
    if (method.activations == Activations::kF32) {
      NIBBLE_ASSIGN_OR_RETURN(candidate, DeviceRunner::Create(*base_.backend, base_.config, weights,
                                                              RunnerFor(flags_.text.window), {}));
      if (weights.canonical()) NIBBLE_RETURN_IF_ERROR(Speed(weights, row));
    } else {
      NIBBLE_ASSIGN_OR_RETURN(candidate, Reference(method, weights));
    }
    return Compare(*candidate, std::move(row));
  }

  // Ctrl-C ends the process wherever else it comes: only this has a file to remove.
  absl::StatusOr<MixedModel> Mixed(const MixInfo& mix,
                                   std::function<void(int64_t, int64_t)> progress) {
    const Cancellation cancellation(interrupt_);
    return QuantizeToMix(flags_.model.model, mix, base_.backend->Info().num_threads,
                         std::move(progress), cancellation.flag());
  }

  // The file is as `nibble quantize --type` writes it, without importance.
  absl::Status AddMix(const MixInfo& mix) {
    TableRow row;
    row.method = absl::StrCat(kMixPrefix, mix.name);
    Progress progress(io_.err, io_.err_is_terminal, row.method, nullptr, &clock_);
    const bool measured = ResetPeakMemory();
    const Instant start = clock_.Now();
    NIBBLE_ASSIGN_OR_RETURN(
        const MixedModel mixed,
        Mixed(mix, [&progress](int64_t done, int64_t total) { progress.Update(done, total); }));
    if (interrupt_.seen()) return absl::CancelledError("stopped");
    row.quantize_seconds = std::chrono::duration<double>(clock_.Now() - start).count();
    row.peak_bytes = measured ? PeakMemoryBytes() : 0;
    row.bits = mixed.bits;
    NIBBLE_ASSIGN_OR_RETURN(const ModelConfig config, mixed.file->Config());
    const std::unique_ptr<WeightSource> weights = mixed.file->Source(config);
    row.bytes = BytesWith(*weights, {});
    NIBBLE_ASSIGN_OR_RETURN(
        const std::unique_ptr<LogitsRunner> candidate,
        DeviceRunner::Create(*base_.backend, config, *weights, RunnerFor(flags_.text.window), {}));
    NIBBLE_RETURN_IF_ERROR(Speed(*weights, row));
    return Compare(*candidate, std::move(row));
  }

  // The row's figures against the base; the row is then one of the table.
  absl::Status Compare(LogitsRunner& candidate, TableRow row) {
    Progress progress(io_.err, io_.err_is_terminal, absl::StrCat(row.method, ": divergence"),
                      nullptr, &clock_);
    NIBBLE_ASSIGN_OR_RETURN(row.result,
                            EvaluateDivergence(*base_.runner, candidate, text_.ids, text_.windows,
                                               [&progress](int64_t done, int64_t total) {
                                                 progress.Update(done, total);
                                               }));
    rows_[0].result.base_nll = rows_[0].result.candidate_nll = row.result.base_nll;
    rows_[0].result.agreement.mean = 1;
    rows_.push_back(std::move(row));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<quantize::LinearReport>> Train(const Method& method,
                                                            quantize::ReplacedWeights& weights,
                                                            Progress& progress) {
    quantize::TrainingOptions options = flags_.training;
    options.seed = flags_.seed;
    options.threads = base_.backend->Info().num_threads;
    options.progress = [&progress](int32_t done, int32_t steps, double) {
      progress.Update(done, steps);
    };
    return quantize::TrainQuantized(*source_, base_.config, method.scheme, calibration_, options,
                                    weights);
  }

  absl::StatusOr<std::vector<quantize::LinearReport>> Layerwise(const Method& method,
                                                                quantize::ReplacedWeights& weights,
                                                                Progress& progress) {
    quantize::LayerwiseOptions options;
    options.damping = flags_.damping;
    options.smooth_alpha = static_cast<float>(flags_.smooth_alpha);
    options.seed = flags_.seed;
    options.threads = base_.backend->Info().num_threads;
    options.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
    return quantize::QuantizeLayers(*source_, base_.config, method, calibration_, options, weights);
  }

  absl::Status Quantize(const Method& method, quantize::ReplacedWeights& weights, TableRow& row) {
    Progress progress(io_.err, io_.err_is_terminal, method.name, nullptr, &clock_);
    const bool measured = ResetPeakMemory();
    const Instant start = clock_.Now();
    const bool trains = method.algorithm == quantize::Algorithm::kTrain;
    NIBBLE_ASSIGN_OR_RETURN(
        const std::vector<quantize::LinearReport> linears,
        trains ? Train(method, weights, progress) : Layerwise(method, weights, progress));
    row.quantize_seconds = std::chrono::duration<double>(clock_.Now() - start).count();
    row.peak_bytes = measured ? PeakMemoryBytes() : 0;
    row.bits = MeanBits(linears);
    row.bytes = BytesWith(*source_, linears);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<LogitsRunner>> Reference(
      const Method& method, const quantize::ReplacedWeights& weights) const {
    const auto make = [&](int32_t layer, quantize::Linear linear, quantize::MatrixF weight) {
      if (method.activations == Activations::kOutliersApart) return quantize::MakeOutlierOp(weight);
      return quantize::MakeW8A8Op(weight, weights.input_range(layer, quantize::SiteOf(linear)));
    };
    return quantize::MakeReferenceRunner(weights, base_.config, flags_.text.window, make);
  }

  absl::Status CheckDecodeFits() const {
    const int32_t most = base_.config.context_length - kDecodeContext;
    if (flags_.decode_tokens == 0 || flags_.decode_tokens <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--decode-tokens: found ", flags_.decode_tokens,
                                                   ", needed 0 to ", std::max(most, 0),
                                                   ", the model's context less ", kDecodeContext));
  }

  // Greedy decode of one sequence on the fast path, int8 activations.
  absl::Status Speed(const WeightSource& weights, TableRow& row) {
    const int32_t n = flags_.decode_tokens;
    if (n == 0) return absl::OkStatus();
    CpuOptions cpu = flags_.model.cpu;
    cpu.activations = CpuActivations::kInt8;
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, CreateCpuBackend(cpu));
    RunnerOptions options = RunnerFor(kDecodeContext + n);
    options.kv_cache_bytes *= 2;  // a sequence that grows takes its next block early
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceRunner> runner,
                            DeviceRunner::Create(*backend, base_.config, weights, options, {}));
    BenchFlags bench;
    bench.prompt_tokens = {0};
    bench.context = {kDecodeContext};
    bench.generate_tokens = n;
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<BenchResult> results,
                            Bench(*runner, bench, clock_, {}));
    row.decode_rate = results.at(0).MedianRate();
    return absl::OkStatus();
  }

  const TableFlags& flags_;
  Interrupt& interrupt_;
  const Io& io_;
  const SteadyClock clock_;
  LocalModel base_;
  std::unique_ptr<WeightSource> source_;
  EvalText text_;
  Windows calibration_;
  std::vector<TableRow> rows_;
};

}  // namespace

int RunTable(const TableFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  Interrupt interrupt;
  Table table(flags, interrupt, io);
  if (const absl::Status status = table.Run(); !status.ok()) {
    Fail(io, status);
    return absl::IsCancelled(status) ? kExitInterrupted : kExitFailure;
  }
  if (flags.output == OutputFormat::kJson) {
    PrintJson(io.out, TableJson(table.rows(), table.windows(), flags));
  } else {
    io.out << TableMarkdown(table.rows(), table.windows()) << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble

#include "cli/eval_table.h"

#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "cli/bench.h"
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

constexpr char kDefaultMethods[] =
    "rtn-int8-sym-channel,rtn-e4m3-channel,rtn-nf4-b64,rtn-nf4-b64-dq,rtn-int4-full-g128,"
    "rtn-int4-asym-g128,gptq-actorder-int4-full-g128,gptq-actorder-int4-asym-g128,"
    "awq-clip-int4-asym-g128";

absl::StatusOr<std::vector<Method>> Methods(const TableFlags& flags) {
  std::vector<Method> methods;
  for (absl::string_view name : absl::StrSplit(flags.methods, ',', absl::SkipEmpty())) {
    NIBBLE_ASSIGN_OR_RETURN(Method method, quantize::ParseMethod(name));
    if (quantize::NeedsCalibration(method) && flags.calibration.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--calibration: found nothing, method ", name, " needs a text"));
    }
    methods.push_back(std::move(method));
  }
  if (methods.empty()) return absl::InvalidArgumentError("--methods: found none");
  return methods;
}

absl::Status Validate(const TableFlags& flags) {
  NIBBLE_RETURN_IF_ERROR(CheckModelGiven(flags.model.model));
  NIBBLE_RETURN_IF_ERROR(CheckTextFlags(flags.text));
  return Methods(flags).status();
}

absl::StatusOr<Windows> CalibrationWindows(const TableFlags& flags, const Tokenizer& tokenizer) {
  if (flags.calibration.empty()) return Windows();
  TextFlags text_flags = flags.text;
  text_flags.path = flags.calibration;
  NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(text_flags));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, TokenizeText(text_flags, file, tokenizer));
  NIBBLE_ASSIGN_OR_RETURN(Windows windows,
                          quantize::CutWindows(text.ids, flags.text.window, text.windows.bos_id));
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
  Table(const TableFlags& flags, const Io& io) : flags_(flags), io_(io) {}

  absl::Status Run() {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<Method> methods, Methods(flags_));
    NIBBLE_ASSIGN_OR_RETURN(const std::string file, ReadText(flags_.text));
    NIBBLE_ASSIGN_OR_RETURN(base_, OpenLocalModel(flags_.model, {}));
    NIBBLE_ASSIGN_OR_RETURN(text_, TokenizeText(flags_.text, file, *base_.tokenizer));
    NIBBLE_ASSIGN_OR_RETURN(calibration_, CalibrationWindows(flags_, *base_.tokenizer));
    NIBBLE_RETURN_IF_ERROR(LoadWeights(base_, RunnerFor(flags_.text.window), {}));
    source_ = base_.file->Source(base_.config);
    NIBBLE_RETURN_IF_ERROR(AddBase());
    for (const Method& method : methods) NIBBLE_RETURN_IF_ERROR(AddMethod(method));
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
    Progress progress(io_.err, io_.err_is_terminal, absl::StrCat(method.name, ": divergence"),
                      nullptr, &clock_);
    NIBBLE_ASSIGN_OR_RETURN(row.result,
                            EvaluateDivergence(*base_.runner, *candidate, text_.ids, text_.windows,
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

  // Greedy decode of one sequence on the fast path, int8 activations.
  absl::Status Speed(const WeightSource& weights, TableRow& row) {
    constexpr int32_t kContext = 64;
    const int32_t n = flags_.decode_tokens;
    if (n == 0) return absl::OkStatus();
    CpuOptions cpu = flags_.model.cpu;
    cpu.activations = CpuActivations::kInt8;
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, CreateCpuBackend(cpu));
    RunnerOptions options = RunnerFor(kContext + n);
    options.kv_cache_bytes *= 2;  // a sequence that grows takes its next block early
    NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<DeviceRunner> runner,
                            DeviceRunner::Create(*backend, base_.config, weights, options, {}));
    BenchFlags bench;
    bench.prompt_tokens = {0};
    bench.context = {kContext};
    bench.generate_tokens = n;
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<BenchResult> results,
                            Bench(*runner, bench, clock_, {}));
    row.decode_rate = results.at(0).MedianRate();
    return absl::OkStatus();
  }

  const TableFlags& flags_;
  const Io& io_;
  const SteadyClock clock_;
  LocalModel base_;
  std::unique_ptr<WeightSource> source_;
  EvalText text_;
  Windows calibration_;
  std::vector<TableRow> rows_;
};

std::string Mebibytes(int64_t bytes) {
  return bytes > 0 ? absl::StrFormat("%.1f", static_cast<double>(bytes) / (1 << 20)) : "-";
}

}  // namespace

TableFlags::TableFlags() : methods(kDefaultMethods) {
  model.cpu.activations = CpuActivations::kF32;
}

std::string TableFooter() {
  return absl::StrCat(kTextProtocol, R"(
  Every method quantizes the seven matrices of each layer (with "+head", embedding and output too) and runs the same
  windows as the model itself: KL(model || quantized) in nats a token with one standard error, perplexity of the
  quantized, its change, and how often both find the same token likeliest. f32 activations, but for w8a8, smoothquant
  and llm-int8. --calibration is cut into windows the same way. tokens/s: greedy decode of one sequence on the fast
  path (int8 activations), where there is a kernel for what the method makes.

Methods, names separated by commas
  rtn-SCHEME                                    round to nearest
  gptq-SCHEME gptq-actorder-.. gptq-gidx-..     GPTQ: columns as stored, by activation with static groups, with g_idx
  gptq-clip-.. gptq-actorder-clip-..            GPTQ within learned ranges
  awq-SCHEME awq-clip-SCHEME                    AWQ, with its clip search
  clip-SCHEME                                   learned clipping (OmniQuant's)
  qat-SCHEME                                    quantization-aware training, for small models
  incoherent-rtn-.. incoherent-gptq-.. -clip-.. after a randomized Hadamard rotation
  w8a8[-static-RULE] smoothquant[-static-RULE]  int8 activations; RULE: min-max percentile mse entropy
  llm-int8                                      outlier columns in f16
Schemes
  int2..int8, -sym (+-(2^(n-1) - 1)), -full (-2^(n-1) too) or -asym (zero point), -tensor, -channel or -gN
  nf4-bN[-dq] fp4-bN[-dq]  e4m3- or e5m2-tensor, -channel, -block;  -mse after any: range of least squared error

JSON
  {"window","first_scored","stride","tokens","calibration_windows","seed","qat":{"steps","batch","learning_rate"},
  "rows":[{"method","bits_per_weight","bytes",
  "perplexity","change_percent","kl":{"mean","standard_error"},"top1_percent","decode_tokens_per_second",
  "quantize_seconds","peak_bytes"},..]}

Example
  nibble eval table --model f16.gguf --text eval.txt --calibration calib.txt --methods rtn-nf4-b64,gptq-int4-full-g128
)");
}

void AddTableFlags(Flags& flags, TableFlags& table) {
  AddModelFlag(flags, table.model);
  AddTextFlags(flags, table.text);
  flags.Add("--methods", table.methods, "What to compare, separated by commas")
      ->type_name("NAME,..");
  flags.Add("--calibration", table.calibration, "UTF-8 text that methods may look at")
      ->type_name("FILE");
  flags.Add("--calibration-windows", table.calibration_windows, "Windows of it, at most")
      ->check(CLI::Range(1, 1 << 20));
  flags.Add("--damping", table.damping, "GPTQ's, of the mean of the Hessian's diagonal")
      ->check(CLI::Range(0.0, 1e3));
  flags
      .Add("--smooth-alpha", table.smooth_alpha, "SmoothQuant's: 0 leaves activations as they are")
      ->check(CLI::Range(0.0, 1.0));
  flags.Add("--seed", table.seed, "Of rotations, and of the order in which qat sees windows");
  flags.Add("--qat-steps", table.training.steps, "Steps of qat; 0 rounds to nearest")
      ->check(CLI::Range(0, quantize::kMaxTrainingSteps));
  flags.Add("--qat-batch", table.training.batch, "Calibration windows that a step of qat sees")
      ->check(CLI::Range(1, 1024));
  flags.Add("--qat-learning-rate", table.training.learning_rate, "Of qat's first step; falls to 0")
      ->check(CLI::Range(0.0, 1.0));
  flags.Add("--decode-tokens", table.decode_tokens, "Tokens to measure decoding by; 0: do not")
      ->check(CLI::Range(0, 1 << 16));
  flags
      .Add("--threads", table.model.cpu.num_threads,
           "CPU threads; 0: one a core this process may use")
      ->check(CLI::Range(0, 256));
  AddOutputFlag(flags, table.output);
}

std::string TableMarkdown(const std::vector<TableRow>& rows, const WindowOptions& windows) {
  std::string text = absl::StrFormat(
      "%d tokens: %s\n\n"
      "| method | bits / weight | MiB | perplexity | change, %% | KL, nats | same top-1, %% | "
      "tokens/s | quantize, s | peak, MiB |\n|---|---|---|---|---|---|---|---|---|---|\n",
      rows.back().result.tokens, ScoredText(windows, rows.back().result.windows));
  for (const TableRow& row : rows) {
    const DivergenceResult& result = row.result;
    absl::StrAppend(
        &text, absl::StrFormat(
                   "| %s | %.3f | %s | %.4f | %+.2f | %.5f ± %.5f | %.2f | %s | %.1f | %s |\n",
                   row.method, row.bits, Mebibytes(row.bytes), std::exp(result.candidate_nll.mean),
                   100 * std::expm1(result.candidate_nll.mean - result.base_nll.mean),
                   result.kl.mean, result.kl.standard_error, 100 * result.agreement.mean,
                   row.decode_rate ? absl::StrFormat("%.0f", *row.decode_rate) : "-",
                   row.quantize_seconds, Mebibytes(row.peak_bytes)));
  }
  return text;
}

nlohmann::ordered_json TableJson(const std::vector<TableRow>& rows, const WindowOptions& windows,
                                 const TableFlags& flags) {
  nlohmann::ordered_json json = {{"model", flags.model.model},
                                 {"text", flags.text.path},
                                 {"window", windows.window},
                                 {"first_scored", windows.skip},
                                 {"stride", windows.Stride()},
                                 {"tokens", rows.back().result.tokens},
                                 {"calibration", flags.calibration},
                                 {"calibration_windows", flags.calibration_windows},
                                 {"seed", flags.seed},
                                 {"qat",
                                  {{"steps", flags.training.steps},
                                   {"batch", flags.training.batch},
                                   {"learning_rate", flags.training.learning_rate}}},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (const TableRow& row : rows) {
    const DivergenceResult& result = row.result;
    json["rows"].push_back(
        {{"method", row.method},
         {"bits_per_weight", row.bits},
         {"bytes", row.bytes},
         {"perplexity", std::exp(result.candidate_nll.mean)},
         {"change_percent", 100 * std::expm1(result.candidate_nll.mean - result.base_nll.mean)},
         {"kl", {{"mean", result.kl.mean}, {"standard_error", result.kl.standard_error}}},
         {"top1_percent", 100 * result.agreement.mean},
         {"decode_tokens_per_second",
          row.decode_rate ? nlohmann::ordered_json(*row.decode_rate) : nlohmann::ordered_json()},
         {"quantize_seconds", row.quantize_seconds},
         {"peak_bytes", row.peak_bytes}});
  }
  return json;
}

int RunTable(const TableFlags& flags, const Io& io) {
  if (const absl::Status usage = Validate(flags); !usage.ok()) return WrongUsage(io, usage);
  Table table(flags, io);
  if (const absl::Status status = table.Run(); !status.ok()) return Fail(io, status);
  if (flags.output == OutputFormat::kJson) {
    io.out << TableJson(table.rows(), table.windows(), flags).dump() << std::endl;
  } else {
    io.out << TableMarkdown(table.rows(), table.windows()) << std::flush;
  }
  return kExitOk;
}

}  // namespace nibble

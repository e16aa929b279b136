#include "engine/quantize/calibration/layerwise.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/calibration/layer_inputs.h"
#include "engine/quantize/calibration/layer_results.h"
#include "engine/quantize/calibration/quantize_linear.h"
#include "engine/quantize/methods/awq.h"
#include "engine/quantize/methods/smooth_quant.h"

namespace nibble::quantize {
namespace {

constexpr int Index(Site site) { return static_cast<int>(site); }

class Run {
 public:
  Run(const WeightSource& source, const ModelConfig& config, const Method& method,
      const LayerwiseOptions& options, int32_t max_tokens, LayerSink& sink)
      : source_(source),
        config_(config),
        method_(method),
        options_(options),
        inputs_(config, max_tokens, options.threads, options.cancelled, options.scratch_folder),
        results_(options, sink, config.num_layers, 2 * method.head) {}

  absl::Status Embed(absl::Span<const std::vector<int32_t>> windows) {
    if (results_.last_to_do() < 0) return absl::OkStatus();
    for (const std::vector<int32_t>& window : windows) {
      MatrixF x(static_cast<int64_t>(window.size()), config_.hidden_size);
      for (size_t i = 0; i < window.size(); ++i) {
        NIBBLE_RETURN_IF_ERROR(EmbedToken(window[i], x.row(static_cast<int64_t>(i)).data()));
      }
      NIBBLE_RETURN_IF_ERROR(inputs_.Add(std::move(x)));
    }
    return absl::OkStatus();
  }

  absl::Status Layers() {
    for (layer_ = 0; layer_ < config_.num_layers; ++layer_) {
      if (results_.Has(layer_)) {
        NIBBLE_RETURN_IF_ERROR(Replay());
        continue;
      }
      NIBBLE_ASSIGN_OR_RETURN(weights_, LoadLayer(source_, config_, layer_));
      NIBBLE_RETURN_IF_ERROR(results_.Begin(layer_));
      NIBBLE_RETURN_IF_ERROR(SeesWholeLayers() ? WholeLayer() : SiteBySite());
      NIBBLE_RETURN_IF_ERROR(results_.End());
    }
    return absl::OkStatus();
  }

  absl::Status Head() {
    for (const std::string name : {"token_embd.weight", "output.weight"}) {
      if (!HasCodes(name) || (config_.tied_head && name == "output.weight")) continue;
      NIBBLE_ASSIGN_OR_RETURN(const MatrixF weight,
                              LoadDense(source_, name, config_.vocab_size, config_.hidden_size));
      NIBBLE_RETURN_IF_ERROR(Quantize(name, weight, MatrixF(), false).status());
    }
    return absl::OkStatus();
  }

  std::vector<LinearReport> TakeReports() { return results_.TakeReports(); }

 private:
  bool SeesWholeLayers() const {
    return method_.algorithm == Algorithm::kAwq || method_.algorithm == Algorithm::kSmoothQuant ||
           method_.algorithm == Algorithm::kNone;
  }

  // A finished layer: the text passes it as it did then, if a layer behind it still needs the text.
  absl::Status Replay() {
    NIBBLE_RETURN_IF_ERROR(Cancelled());
    NIBBLE_ASSIGN_OR_RETURN(LayerResult result, results_.Replay(layer_));
    if (inputs_.empty() || layer_ > results_.last_to_do()) return absl::OkStatus();
    NIBBLE_ASSIGN_OR_RETURN(weights_, LoadLayer(source_, config_, layer_));
    if (SeesWholeLayers()) return inputs_.PassLayer(weights_);
    for (int i = 0; i < kNumLinears; ++i) {  // the text sees what the layer has become
      for (LayerResult::Matrix& matrix : result.matrices) {
        if (matrix.name != LinearName(layer_, static_cast<Linear>(i))) continue;
        weights_.linear[i] = std::move(matrix.values);
      }
    }
    return inputs_.PassLayer(weights_);
  }

  absl::Status EmbedToken(int32_t id, float* out) {
    if (id < 0 || id >= config_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "calibration token ", id, " is not in the vocabulary of ", config_.vocab_size));
    }
    NIBBLE_ASSIGN_OR_RETURN(
        const quant::Matrix row,
        source_.LoadRows("token_embd.weight", config_.vocab_size, config_.hidden_size, {id, 1}));
    quant::DequantizeRow(row, 0, out);
    return absl::OkStatus();
  }

  bool HasCodes(const std::string& name) const {
    return !options_.has_codes || options_.has_codes(name);
  }
  absl::Status Cancelled() const {
    if (options_.cancelled == nullptr || !options_.cancelled->load()) return absl::OkStatus();
    return absl::CancelledError("stopped before there was an output");
  }

  // Each linear on the inputs that the ones quantized before it make.
  absl::Status SiteBySite() {
    for (Site site : kSites) {
      MatrixF hessian;
      if (!inputs_.empty()) {
        NIBBLE_ASSIGN_OR_RETURN(const InputStats stats, inputs_.Measure(site, weights_));
        hessian = stats.Hessian();
      }
      for (Linear linear : LinearsOf(site)) {
        NIBBLE_ASSIGN_OR_RETURN(weights_[linear], Quantize(LinearName(layer_, linear),
                                                           weights_[linear], hessian, false));
      }
    }
    return layer_ < results_.last_to_do() ? inputs_.Finish(weights_) : absl::OkStatus();
  }

  // All inputs first, then the linears; the next layer sees full precision.
  absl::Status WholeLayer() {
    std::vector<InputStats> stats;
    if (!inputs_.empty()) {
      NIBBLE_ASSIGN_OR_RETURN(stats, inputs_.MeasureLayer(weights_));
    }
    if (method_.static_range.has_value()) {
      for (Site site : kSites) TellRange(site, stats[Index(site)]);
    }
    if (method_.algorithm == Algorithm::kAwq) return Awq(stats);
    if (method_.algorithm == Algorithm::kSmoothQuant) return Smooth(stats);
    for (int i = 0; i < kNumLinears; ++i) ReportInt8(static_cast<Linear>(i));
    return absl::OkStatus();
  }

  // A linear that its op quantizes (linear_op.h), not this.
  void ReportInt8(Linear linear) {
    const MatrixF& weight = weights_[linear];
    LinearReport report;
    report.name = LinearName(layer_, linear);
    report.elements = weight.size();
    report.bits = BitsPerWeight(method_.scheme, static_cast<int32_t>(weight.rows()),
                                static_cast<int32_t>(weight.cols()));
    results_.Report(std::move(report));
    results_.LinearDone();
  }

  void TellRange(Site site, const InputStats& stats) {
    constexpr int kBits = 8;
    results_.InputRange(site, ChooseRange(stats.magnitudes(), *method_.static_range, kBits));
  }

  std::vector<const MatrixF*> Matrices(Site site) const {
    std::vector<const MatrixF*> all;
    for (Linear linear : LinearsOf(site)) all.push_back(&weights_[linear]);
    return all;
  }

  // The down projection's scales go into the rows of up, so they are found before up is rounded.
  // The output projection's have nowhere to go where heads share v, and stay 1.
  absl::Status Awq(const std::vector<InputStats>& stats) {
    VectorF scales[4];
    MatrixF hessians[4];
    for (Site site : {Site::kDown, Site::kAttention, Site::kOutput, Site::kFeedForward}) {
      const InputStats& seen = stats[Index(site)];
      MatrixF& hessian = hessians[Index(site)] = seen.Hessian();
      if (site == Site::kOutput) continue;
      for (const MatrixF* weight : Matrices(site)) {
        NIBBLE_RETURN_IF_ERROR(
            Named(LinearName(layer_, LinearsOf(site)[0]),
                  CheckShape(method_.scheme, static_cast<int32_t>(weight->rows()),
                             static_cast<int32_t>(weight->cols()))));
      }
      const AwqScales found = SearchAwqScales(Matrices(site), hessian, seen.MeanAbs(),
                                              method_.scheme, options_.threads);
      Fold(site, found.scales);
      hessian = DivideHessian(hessian, found.scales);
    }
    for (Site site : kSites) {
      for (Linear linear : LinearsOf(site)) {
        const bool clip = method_.clip && linear != Linear::kQ && linear != Linear::kK;
        NIBBLE_RETURN_IF_ERROR(
            Quantize(LinearName(layer_, linear), weights_[linear], hessians[Index(site)], clip)
                .status());
      }
    }
    return TellNorms();
  }

  absl::Status Smooth(const std::vector<InputStats>& stats) {
    for (Site site : {Site::kDown, Site::kAttention, Site::kFeedForward}) {
      const VectorF& input_max = stats[Index(site)].max_abs();
      Fold(site, SmoothScales(Matrices(site), input_max, options_.smooth_alpha));
    }
    for (int i = 0; i < kNumLinears; ++i) {
      NIBBLE_RETURN_IF_ERROR(
          results_.Matrix(LinearName(layer_, static_cast<Linear>(i)), weights_.linear[i], nullptr));
      ReportInt8(static_cast<Linear>(i));
    }
    return TellNorms();
  }

  // Columns of the site's linears times the scales, what makes their input divided by them.
  void Fold(Site site, const VectorF& scales) {
    for (Linear linear : LinearsOf(site)) ScaleColumns(weights_[linear], scales);
    if (site == Site::kDown) {
      DivideRows(weights_[Linear::kUp], scales);
    } else {
      VectorF& norm = site == Site::kAttention ? weights_.attention_norm : weights_.ffn_norm;
      norm.array() /= scales.array();
    }
  }

  absl::Status TellNorms() {
    NIBBLE_RETURN_IF_ERROR(
        results_.Vector(NormName(layer_, Site::kAttention), weights_.attention_norm));
    return results_.Vector(NormName(layer_, Site::kFeedForward), weights_.ffn_norm);
  }

  static absl::Status Named(const std::string& name, const absl::Status& status) {
    if (status.ok()) return status;
    return absl::Status(status.code(), absl::StrCat("tensor '", name, "': ", status.message()));
  }

  // To the sink and the report; returns the values.
  absl::StatusOr<MatrixF> Quantize(const std::string& name, const MatrixF& weight,
                                   const MatrixF& hessian, bool clip) {
    NIBBLE_RETURN_IF_ERROR(Cancelled());
    if (!HasCodes(name)) {
      NIBBLE_RETURN_IF_ERROR(results_.Matrix(name, weight, nullptr));
      results_.LinearDone();
      return weight;
    }
    LinearOptions options;
    options.damping = options_.damping;
    options.seed = options_.seed + static_cast<uint64_t>(results_.done());
    options.clip = clip;
    options.threads = options_.threads;
    absl::StatusOr<QuantizedLinear> linear = QuantizeLinear(method_, weight, hessian, options);
    if (!linear.ok()) return Named(name, linear.status());
    LinearReport report;
    report.name = name;
    report.elements = weight.size();
    report.bits = BitsPerWeight(method_.scheme, linear->weight.rows, linear->weight.cols);
    report.noise_db = SignalToNoise(weight, linear->values);
    if (hessian.size() > 0) {
      const double error = OutputError(weight, linear->values, hessian);
      const double energy =
          OutputError(weight, MatrixF::Zero(weight.rows(), weight.cols()), hessian);
      report.output_error = error == 0 ? 0 : error / energy;
    }
    results_.Report(std::move(report));
    NIBBLE_RETURN_IF_ERROR(
        results_.Matrix(name, linear->values, method_.incoherent ? nullptr : &linear->weight));
    results_.LinearDone();
    return std::move(linear->values);
  }

  const WeightSource& source_;
  const ModelConfig& config_;
  const Method& method_;
  const LayerwiseOptions& options_;
  LayerInputs inputs_;
  LayerResults results_;
  int32_t layer_ = 0;
  LayerWeights weights_;
};

}  // namespace

absl::StatusOr<std::vector<LinearReport>> QuantizeLayers(
    const WeightSource& source, const ModelConfig& config, const Method& method,
    absl::Span<const std::vector<int32_t>> windows, const LayerwiseOptions& options,
    LayerSink& sink) {
  if (method.algorithm == Algorithm::kTrain) {
    return absl::InvalidArgumentError(
        absl::StrCat("method '", method.name, "' is not one that goes layer by layer"));
  }
  if (NeedsCalibration(method) && windows.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("method '", method.name, "' needs a calibration text"));
  }
  int32_t longest = 0;
  for (const auto& window : windows) {
    longest = std::max(longest, static_cast<int32_t>(window.size()));
  }
  Run run(source, config, method, options, longest, sink);
  if (NeedsCalibration(method)) NIBBLE_RETURN_IF_ERROR(run.Embed(windows));
  NIBBLE_RETURN_IF_ERROR(run.Layers());
  if (method.head) NIBBLE_RETURN_IF_ERROR(run.Head());
  return run.TakeReports();
}

}  // namespace nibble::quantize

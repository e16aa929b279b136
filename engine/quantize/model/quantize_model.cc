#include "engine/quantize/model/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/weights/ggml_types.h"

namespace nibble::quantize {
namespace {

// Elements of the rows that are handed on at once: work for every core, 4 MiB.
constexpr int64_t kRowElements = 1 << 20;

std::set<std::string> LinearNames(const ModelConfig& config) {
  std::set<std::string> names;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (int i = 0; i < kNumLinears; ++i) {
      names.insert(LinearName(layer, static_cast<Linear>(i)));
    }
  }
  return names;
}

// Sums that a relative error is made of.
struct Deviation {
  double error = 0, signal = 0;
};

class Feeding : public LayerSink {
 public:
  Feeding(const SourceTensors& tensors, const WeightSource& source, ModelSink& sink)
      : tensors_(tensors), source_(source), sink_(sink) {}

  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight) override {
    if (weight != nullptr) {
      told_.insert(name);
      return sink_.Codes(name, *weight);
    }
    NIBBLE_ASSIGN_OR_RETURN(const bool as_stored, IsAsStored(name, values));
    return as_stored ? absl::OkStatus() : Rows(name, 0, values);  // its bytes are of the rest
  }
  absl::Status Vector(const std::string& name, const VectorF& values) override {
    return Rows(name, 0, values.transpose());
  }
  void InputRange(int32_t, Site, float) override {}

  // All that did not come through QuantizeLayers.
  absl::Status Rest(const std::function<void(int64_t, int64_t)>& progress,
                    const std::atomic<bool>* cancelled) {
    int64_t done = 0, total = 0;
    for (const SourceTensor& tensor : tensors_.tensors()) {
      if (told_.count(tensor.name) == 0) total += tensor.num_elements;
    }
    for (size_t t = 0; t < tensors_.tensors().size(); ++t) {
      const SourceTensor& tensor = tensors_.tensors()[t];
      if (told_.count(tensor.name) != 0) continue;
      const int64_t cols = tensor.dims[0], rows = tensor.num_elements / cols;
      const int64_t multiple = tensors_.row_multiple();
      const int64_t at_once = std::max<int64_t>(1, kRowElements / cols / multiple) * multiple;
      for (int64_t first = 0; first < rows; first += at_once) {
        if (cancelled != nullptr && cancelled->load()) {
          return absl::CancelledError("stopped before there was an output");
        }
        NIBBLE_RETURN_IF_ERROR(Copy(t, first, std::min(at_once, rows - first)));
        done += std::min(at_once, rows - first) * cols;
        if (progress) progress(done, total);
      }
    }
    return absl::OkStatus();
  }

  double ErrorOf(const std::string& name) const {
    const auto found = deviations_.find(name);
    if (found == deviations_.end() || !(found->second.signal > 0)) return 0;
    return std::sqrt(found->second.error / found->second.signal);
  }

 private:
  // Whether the method left alone a matrix that the sink has a place for as it is: encoding it once
  // more would lose once more.
  absl::StatusOr<bool> IsAsStored(const std::string& name, const MatrixF& values) const {
    if (!sink_.Keeps(name)) return false;
    NIBBLE_ASSIGN_OR_RETURN(const MatrixF stored,
                            LoadDense(source_, name, static_cast<int32_t>(values.rows()),
                                      static_cast<int32_t>(values.cols())));
    return stored == values;
  }

  absl::Status Copy(size_t index, int64_t first, int64_t count) {
    const SourceTensor& tensor = tensors_.tensors()[index];
    std::vector<uint8_t> buffer;
    NIBBLE_ASSIGN_OR_RETURN(const absl::Span<const uint8_t> bytes,
                            tensors_.ReadRows(index, first, count, buffer));
    const auto type = static_cast<GgmlType>(tensor.ggml_type);
    const GgmlTypeInfo info = TypeInfo(tensor.ggml_type);
    const bool kept = sink_.Keeps(tensor.name);
    if (!kept && !info.readable) {
      return absl::UnimplementedError(absl::StrCat(tensors_.name(), ": tensor '", tensor.name,
                                                   "' is of type ", info.name,
                                                   ", which this program does not read"));
    }
    // Whether numbers of other types (I32) are finite is not asked.
    const absl::Status finite = info.readable ? CheckFinite(type, bytes) : absl::OkStatus();
    if (!finite.ok()) {
      return absl::Status(finite.code(),
                          absl::StrCat(tensors_.name(), ": tensor '", tensor.name, "', from row ",
                                       first, ": ", finite.message()));
    }
    if (kept) return sink_.Raw(tensor.name, first * BytesOf(type, tensor.dims[0]), bytes);
    MatrixF values(count, tensor.dims[0]);
    DequantizeBlocks(type, bytes, values.size(), values.data());
    return Rows(tensor.name, first, values);
  }

  absl::Status Rows(const std::string& name, int64_t first, const MatrixF& values) {
    told_.insert(name);
    NIBBLE_ASSIGN_OR_RETURN(const double error, sink_.Rows(name, first, values));
    Deviation& deviation = deviations_[name];
    deviation.error += error;
    deviation.signal += values.cast<double>().squaredNorm();
    return absl::OkStatus();
  }

  const SourceTensors& tensors_;
  const WeightSource& source_;
  ModelSink& sink_;
  std::set<std::string> told_;
  std::map<std::string, Deviation> deviations_;  // of what came by Rows
};

GgmlType PlainTypeOf(const SourceTensor& tensor) {
  return tensor.quantized ? GgmlType::kF32 : static_cast<GgmlType>(tensor.ggml_type);
}

// A report says how many decibels the noise is under the signal.
double RelativeError(const LinearReport& linear) { return std::pow(10.0, -linear.noise_db / 20); }

}  // namespace

ModelPlan PlanModel(const SourceTensors& tensors, const ModelConfig& config, const Method& method,
                    const ModelSink& sink) {
  ModelPlan plan;
  plan.config = config;
  plan.method = method;
  // Methods without codes of their own: SmoothQuant's weights are only scaled.
  const bool codes = method.algorithm != Algorithm::kSmoothQuant &&
                     method.algorithm != Algorithm::kNone && !method.incoherent;
  const bool scales =
      method.algorithm == Algorithm::kAwq || method.algorithm == Algorithm::kSmoothQuant;
  const std::set<std::string> in_layers = LinearNames(config);
  std::set<std::string> linears = in_layers;
  if (method.head) {
    linears.insert("token_embd.weight");
    linears.insert("output.weight");
  }
  for (const SourceTensor& tensor : tensors.tensors()) {
    const bool coded = codes && linears.count(tensor.name) != 0 && sink.WantsCodes(tensor.name);
    plan.tensors.push_back({.name = tensor.name,
                            .shape = {tensor.dims.rbegin(), tensor.dims.rend()},
                            .source = PlainTypeOf(tensor),
                            .coded = coded,
                            .scaled = scales && !coded && in_layers.count(tensor.name) != 0});
  }
  return plan;
}

absl::StatusOr<ModelReport> QuantizeModel(const SourceTensors& tensors, const WeightSource& source,
                                          const ModelPlan& plan,
                                          absl::Span<const std::vector<int32_t>> windows,
                                          LayerwiseOptions options,
                                          const std::function<void(int64_t, int64_t)>& rest,
                                          ModelSink& sink) {
  NIBBLE_RETURN_IF_ERROR(sink.Begin(plan));
  std::set<std::string> coded;
  for (const ModelTensor& tensor : plan.tensors) {
    if (tensor.coded) coded.insert(tensor.name);
  }
  options.has_codes = [&coded](const std::string& name) { return coded.count(name) != 0; };
  Feeding feeding(tensors, source, sink);
  ModelReport report;
  NIBBLE_ASSIGN_OR_RETURN(
      report.linears, QuantizeLayers(source, plan.config, plan.method, windows, options, feeding));
  NIBBLE_RETURN_IF_ERROR(feeding.Rest(rest, options.cancelled));
  std::map<std::string, double> chosen;
  for (const LinearReport& linear : report.linears) chosen[linear.name] = RelativeError(linear);
  for (const ModelTensor& tensor : plan.tensors) {
    report.errors.push_back(
        {tensor.name, tensor.coded ? chosen[tensor.name] : feeding.ErrorOf(tensor.name)});
  }
  NIBBLE_RETURN_IF_ERROR(sink.Finish(report.errors));
  return report;
}

}  // namespace nibble::quantize

#include "engine/quantize/calibration/layer_results.h"

#include <utility>

#include "engine/base/status_macros.h"

namespace nibble::quantize {

LayerResults::LayerResults(const LayerwiseOptions& options, LayerSink& sink, int32_t num_layers,
                           int others)
    : options_(options), sink_(sink), journal_(options.journal), to_do_(others) {
  for (int32_t layer = 0; layer < num_layers; ++layer) {
    if (Has(layer)) continue;
    last_to_do_ = layer;
    to_do_ += kNumLinears;
  }
}

bool LayerResults::Has(int32_t layer) const { return journal_ != nullptr && journal_->Has(layer); }

absl::Status LayerResults::Begin(int32_t layer) {
  layer_ = layer;
  first_report_ = reports_.size();
  return journal_ != nullptr ? journal_->Begin(layer) : absl::OkStatus();
}

absl::Status LayerResults::Matrix(const std::string& name, const MatrixF& values,
                                  const QuantizedWeight* weight) {
  NIBBLE_RETURN_IF_ERROR(sink_.Matrix(name, values, weight));
  if (journal_ == nullptr || layer_ < 0) return absl::OkStatus();
  return journal_->Matrix(name, values, weight);
}

absl::Status LayerResults::Vector(const std::string& name, const VectorF& values) {
  NIBBLE_RETURN_IF_ERROR(sink_.Vector(name, values));
  return journal_ != nullptr ? journal_->Vector(name, values) : absl::OkStatus();
}

void LayerResults::InputRange(Site site, float max) {
  sink_.InputRange(layer_, site, max);
  if (journal_ != nullptr) journal_->InputRange(layer_, site, max);
}

absl::Status LayerResults::End() {
  layer_ = -1;
  if (journal_ == nullptr) return absl::OkStatus();
  return journal_->End(absl::MakeConstSpan(reports_).subspan(first_report_));
}

absl::StatusOr<LayerResult> LayerResults::Replay(int32_t layer) {
  NIBBLE_ASSIGN_OR_RETURN(LayerResult result, journal_->Restore(layer));
  for (LayerResult::Matrix& matrix : result.matrices) {
    if (matrix.weight.has_value()) matrix.values = Dequantize(*matrix.weight);
    NIBBLE_RETURN_IF_ERROR(sink_.Matrix(matrix.name, matrix.values,
                                        matrix.weight.has_value() ? &*matrix.weight : nullptr));
    matrix.weight.reset();
  }
  for (const auto& [name, values] : result.vectors) {
    NIBBLE_RETURN_IF_ERROR(sink_.Vector(name, values));
  }
  for (const LayerResult::Range& range : result.ranges) {
    sink_.InputRange(layer, range.site, range.max);
  }
  for (LinearReport& report : result.reports) reports_.push_back(std::move(report));
  result.reports.clear();
  done_ += kNumLinears;
  replayed_ += kNumLinears;
  return result;
}

void LayerResults::LinearDone() {
  ++done_;
  if (options_.progress) options_.progress(done_ - replayed_, to_do_);
}

}  // namespace nibble::quantize

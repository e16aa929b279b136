// What QuantizeLayers says while it works: to the sink, to the journal where there is one, to
// whoever watches; and what it returns in the end.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/quantize/calibration/layer_journal.h"
#include "engine/quantize/calibration/layerwise.h"

namespace nibble::quantize {

class LayerResults {
 public:
  // `others`: linears beside those of the layers (embedding, head). `options` and `sink` outlive
  // this.
  LayerResults(const LayerwiseOptions& options, LayerSink& sink, int32_t num_layers, int others);

  // Whether the journal has it: then Replay, otherwise Begin, the results, and End.
  bool Has(int32_t layer) const;
  // The last layer that is to be worked on; -1: none, the journal has all.
  int32_t last_to_do() const { return last_to_do_; }

  absl::Status Begin(int32_t layer);
  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight);
  absl::Status Vector(const std::string& name, const VectorF& values);
  void InputRange(Site site, float max);
  void Report(LinearReport report) { reports_.push_back(std::move(report)); }
  void LinearDone();
  absl::Status End();

  // The journal's layer, told to the sink again. Matrices have values, whether they have codes or
  // not. Memory: the layer in f32.
  absl::StatusOr<LayerResult> Replay(int32_t layer);

  int64_t done() const { return done_; }  // linears, replayed ones too
  std::vector<LinearReport> TakeReports() { return std::move(reports_); }

 private:
  const LayerwiseOptions& options_;
  LayerSink& sink_;
  LayerJournal* const journal_;  // may be null
  int32_t layer_ = -1;           // that Begin named; -1: none
  int32_t last_to_do_ = -1;
  size_t first_report_ = 0;  // of the layer
  std::vector<LinearReport> reports_;
  int64_t done_ = 0, replayed_ = 0;
  int64_t to_do_ = 0;  // linears that are not in the journal
};

}  // namespace nibble::quantize

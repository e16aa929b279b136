// What QuantizeLayers has finished, kept where a later run of the same work finds it: the seam
// between the layers' order (layerwise.h) and files (engine/quantize/model/work_folder.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/calibration/layerwise.h"

namespace nibble::quantize {

// All that a layer told its sink, in that order, and what became of its linears.
struct LayerResult {
  struct Matrix {
    std::string name;
    MatrixF values;                         // empty where there are codes: Dequantize gives them
    std::optional<QuantizedWeight> weight;  // the codes
  };
  struct Range {
    Site site = Site::kAttention;
    float max = 0;
  };
  std::vector<Matrix> matrices;
  std::vector<std::pair<std::string, VectorF>> vectors;
  std::vector<Range> ranges;
  std::vector<LinearReport> reports;
};

// As a sink it hears, between Begin and End, what the layer's real one hears. One thread.
class LayerJournal : public LayerSink {
 public:
  // Whether the layer is finished; the same answer until Begin(layer).
  virtual bool Has(int32_t layer) const = 0;
  // REQUIRES Has(layer).
  virtual absl::StatusOr<LayerResult> Restore(int32_t layer) = 0;

  virtual absl::Status Begin(int32_t layer) = 0;
  // The layer is finished, and stays so whatever happens to this process.
  virtual absl::Status End(absl::Span<const LinearReport> reports) = 0;
};

}  // namespace nibble::quantize

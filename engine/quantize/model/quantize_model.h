// A method applied to a whole model, from what reads it to what writes it: the linears of the
// layers through QuantizeLayers (calibration/layerwise.h), the rest - embedding, head, norms,
// biases - row by row as they are.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/calibration/layerwise.h"
#include "engine/quantize/model/model_sink.h"
#include "engine/quantize/source_tensors.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

struct ModelReport {
  std::vector<LinearReport> linears;  // in the order of the forward pass
  std::vector<TensorError> errors;    // one a tensor, in the plan's order
};

// The tensors of `tensors`, those of them coded that the method takes and the sink wants.
ModelPlan PlanModel(const SourceTensors& tensors, const ModelConfig& config, const Method& method,
                    const ModelSink& sink);

// Feeds the sink everything the plan names and finishes it: tensors that it keeps and the method
// leaves alone as the bytes they are. `source` and `tensors` are the same model. Memory: that of
// QuantizeLayers, and some MiB for rows. Deterministic for the options' seed
// and any number of threads; `rest` tells elements done and in all of what QuantizeLayers does not
// see (may be empty). Errors of both, of the source and of the sink; DATA_LOSS for a weight that is
// not finite; UNIMPLEMENTED for a tensor of a type that is not read and that the sink does not
// keep.
absl::StatusOr<ModelReport> QuantizeModel(const SourceTensors& tensors, const WeightSource& source,
                                          const ModelPlan& plan,
                                          absl::Span<const std::vector<int32_t>> windows,
                                          LayerwiseOptions options,
                                          const std::function<void(int64_t, int64_t)>& rest,
                                          ModelSink& sink);

}  // namespace nibble::quantize

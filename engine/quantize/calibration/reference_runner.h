// A decoder in plain f32 as a LogitsRunner: the reference for methods that quantize activations,
// which a weight file alone cannot say, and the check of the calibration's own forward.
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/model/logits_runner.h"
#include "engine/model/model_config.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/methods/linear_op.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

// How a layer's linear is to run; MakeDenseOp for plain f32.
using OpFactory =
    absl::FunctionRef<std::unique_ptr<LinearOp>(int32_t layer, Linear linear, MatrixF weight)>;

// Loads all of the model in f32. Batches are of one row (one sequence) whose tokens up to the last
// scheduled one are computed again from the first in every call: there is no cache. UNIMPLEMENTED
// from Run, and from RunForLogits for more rows. `max_context` limits a sequence.
absl::StatusOr<std::unique_ptr<LogitsRunner>> MakeReferenceRunner(const WeightSource& source,
                                                                  const ModelConfig& config,
                                                                  int32_t max_context,
                                                                  OpFactory make_op);

}  // namespace nibble::quantize

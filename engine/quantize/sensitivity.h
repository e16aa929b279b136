// What every type would do to every tensor of a model: the figures that a budget of bytes
// (budget.h) is spent by.
//
// Running the model once for every tensor and type would take types times too long, so it runs once
// a tensor, with that tensor alone at a probe type; the other types' damage follows from how much
// larger or smaller their square error is, weighted as the encoder weighs it. Damage grows with the
// square of small errors (the divergence's gradient is 0 where nothing is changed), so this holds
// while damage is small; at 2 bits it tells too little.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/budget.h"
#include "engine/quantize/importance.h"
#include "engine/quantize/methods/dense.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/weight_source.h"

namespace nibble {

struct ProbedTensor {
  std::string name;
  int32_t rows = 0, cols = 0;
};

struct SensitivityOptions {
  std::vector<GgmlType> types;  // to choose from; those whose blocks do not fill a row are left out
  GgmlType probe = GgmlType::kQ4_0;
  const Importance* importance = nullptr;  // of the columns; null: all alike
  int threads = 1;
  // What the model loses when `name` alone has these values: its mean KL divergence, say. Runs on
  // the calling thread, once a tensor.
  std::function<absl::StatusOr<double>(const std::string& name, const quantize::MatrixF& values)>
      damage;
  std::function<void(int64_t done, int64_t total)> progress;  // tensors; may be empty
};

// For each tensor its choices, in the order of `types`; a type that changes nothing has damage 0,
// and so has a tensor whose measured damage is below 0, which is noise. INVALID_ARGUMENT for a
// tensor whose rows no type's blocks fill, and for a probe that does not (names the tensor);
// otherwise what the source or `damage` says. Memory: two copies of a tensor in f32, and what
// `damage` takes. REQUIRES: every type can be encoded (encode.h).
absl::StatusOr<std::vector<TensorChoices>> MeasureSensitivity(
    const WeightSource& source, absl::Span<const ProbedTensor> tensors,
    const SensitivityOptions& options);

}  // namespace nibble

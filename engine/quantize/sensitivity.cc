#include "engine/quantize/sensitivity.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/ggml/encode.h"
#include "engine/quantize/gguf_quantizer.h"
#include "engine/quantize/methods/parallel.h"
#include "engine/weights/ggml_types.h"

namespace nibble {
namespace {

using quantize::MatrixF;

bool Fills(GgmlType type, int32_t cols) {
  return cols % TypeInfo(static_cast<int32_t>(type)).block_elements == 0;
}

// `values` = the matrix as the type keeps it; returns the square error, columns weighted by their
// importance. Rows' errors are added in their order, whatever the threads are.
double Encode(GgmlType type, const MatrixF& dense, absl::Span<const float> importance, int threads,
              MatrixF& values) {
  const int64_t row_bytes = BytesOf(type, dense.cols());
  values.resize(dense.rows(), dense.cols());
  std::vector<double> errors(dense.rows());
  quantize::ParallelRanges(dense.rows(), 16, threads, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> bytes(row_bytes);
    for (int64_t n = first; n < last; ++n) {
      EncodeRow(type, {dense.row(n).data(), static_cast<size_t>(dense.cols())}, importance,
                bytes.data());
      DequantizeBlocks(type, bytes, dense.cols(), values.row(n).data());
      for (int64_t k = 0; k < dense.cols(); ++k) {
        const double difference = double{dense(n, k)} - values(n, k);
        errors[n] += difference * difference * (importance.empty() ? 1 : importance[k]);
      }
    }
  });
  double sum = 0;
  for (double error : errors) sum += error;
  return sum;
}

absl::StatusOr<TensorChoices> Measure(const WeightSource& source, const ProbedTensor& tensor,
                                      const SensitivityOptions& options) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", tensor.name, "': rows of ", tensor.cols, " ", why));
  };
  if (!Fills(options.probe, tensor.cols)) return refuse("do not fill the probe type's blocks");
  NIBBLE_ASSIGN_OR_RETURN(const MatrixF dense,
                          quantize::LoadDense(source, tensor.name, tensor.rows, tensor.cols));
  absl::Span<const float> importance;
  if (options.importance != nullptr) importance = options.importance->Find(tensor.name);
  if (!importance.empty() && importance.size() != static_cast<size_t>(tensor.cols)) {
    return refuse(absl::StrCat("with an importance of ", importance.size()));
  }
  MatrixF values;
  const double probed = Encode(options.probe, dense, importance, options.threads, values);
  NIBBLE_ASSIGN_OR_RETURN(const double measured, options.damage(tensor.name, values));
  const double per_error = probed > 0 ? std::max(measured, 0.0) / probed : 0;
  TensorChoices choices{.name = tensor.name, .choices = {}};
  for (GgmlType type : options.types) {
    if (!Fills(type, tensor.cols)) continue;
    const double error = Encode(type, dense, importance, options.threads, values);
    choices.choices.push_back(
        {.type = type, .bytes = BytesOf(type, dense.size()), .damage = per_error * error});
  }
  if (choices.choices.empty()) return refuse("do not fill the blocks of any type asked for");
  return choices;
}

}  // namespace

absl::StatusOr<std::vector<TensorChoices>> MeasureSensitivity(
    const WeightSource& source, absl::Span<const ProbedTensor> tensors,
    const SensitivityOptions& options) {
  std::vector<TensorChoices> all;
  for (const ProbedTensor& tensor : tensors) {
    NIBBLE_ASSIGN_OR_RETURN(TensorChoices choices, Measure(source, tensor, options));
    all.push_back(std::move(choices));
    if (options.progress) {
      options.progress(static_cast<int64_t>(all.size()), static_cast<int64_t>(tensors.size()));
    }
  }
  return all;
}

}  // namespace nibble

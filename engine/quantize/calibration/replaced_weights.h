// A checkpoint of which some tensors have been replaced: what a method made of a model, to be
// loaded by a runner in the place of the original.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/quantize/calibration/layerwise.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

// Matrices with codes are kept in their canonical format, so that the kernels which run them are
// the ones that would serve them; the others (rotated, with g_idx, only scaled) in f32.
class ReplacedWeights : public WeightSource, public LayerSink {
 public:
  explicit ReplacedWeights(const WeightSource& original) : original_(original) {}  // outlives this

  absl::Status Matrix(const std::string& name, const MatrixF& values,
                      const QuantizedWeight* weight) override;
  absl::Status Vector(const std::string& name, const VectorF& values) override;
  void InputRange(int32_t layer, Site site, float max) override;

  // True when every replaced matrix is in the format that would serve it.
  bool canonical() const { return canonical_; }
  // By InputRange; 0: none was told.
  float input_range(int32_t layer, Site site) const;

  bool Has(absl::string_view name) const override { return original_.Has(name); }
  absl::StatusOr<quant::Matrix> LoadRows(absl::string_view name, int32_t rows, int32_t cols,
                                         RowRange range) const override;
  absl::StatusOr<std::vector<float>> LoadVector(absl::string_view name, int32_t n) const override;
  std::vector<TensorReport> Report() const override { return original_.Report(); }
  // UNIMPLEMENTED: there is no file that it could be told from.
  absl::StatusOr<SourceIdentity> Identity() const override;

 private:
  const WeightSource& original_;
  std::map<std::string, quant::Matrix> matrices_;
  std::map<std::string, std::vector<float>> vectors_;
  std::map<std::pair<int32_t, Site>, float> ranges_;
  bool canonical_ = true;
};

// `values` as a canonical f32 matrix.
quant::Matrix F32Matrix(const MatrixF& values);

}  // namespace nibble::quantize

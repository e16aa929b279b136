#include "engine/quantize/calibration/replaced_weights.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

// Elements `first` .. of a flat array of equally many for every row.
template <typename T>
std::vector<T> RowsOf(const std::vector<T>& all, int32_t rows, RowRange range) {
  const size_t each = all.size() / rows;
  return {all.begin() + range.first * each, all.begin() + (range.first + range.count) * each};
}

// Scales of fp8 that rows share stay shared: the range must begin where one of theirs does.
quant::Matrix SliceRows(const quant::Matrix& matrix, RowRange range) {
  quant::Matrix slice = matrix;
  slice.rows = range.count;
  slice.codes = RowsOf(matrix.codes, matrix.rows, range);
  if (matrix.row_group == 1) {
    slice.scales = RowsOf(matrix.scales, matrix.rows, range);
    slice.offsets = RowsOf(matrix.offsets, matrix.rows, range);
    return slice;
  }
  if (matrix.row_group == matrix.rows) {  // one for the matrix
    slice.row_group = range.count;
    return slice;
  }
  NIBBLE_CHECK(range.first % matrix.row_group == 0);
  const size_t across = (matrix.cols + matrix.group - 1) / matrix.group;
  const auto begin = matrix.scales.begin() + range.first / matrix.row_group * across;
  const int32_t down = (range.count + matrix.row_group - 1) / matrix.row_group;
  slice.scales.assign(begin, begin + down * across);
  return slice;
}

}  // namespace

quant::Matrix F32Matrix(const MatrixF& values) {
  quant::Matrix matrix;
  matrix.rows = static_cast<int32_t>(values.rows());
  matrix.cols = static_cast<int32_t>(values.cols());
  matrix.codes.resize(values.size() * sizeof(float));
  std::memcpy(matrix.codes.data(), values.data(), matrix.codes.size());
  return matrix;
}

absl::Status ReplacedWeights::Matrix(const std::string& name, const MatrixF& values,
                                     const QuantizedWeight* weight) {
  if (weight != nullptr) {
    absl::StatusOr<quant::Matrix> canonical = ToCanonical(*weight);
    if (canonical.ok()) {
      matrices_[name] = std::move(canonical).value();
      return absl::OkStatus();
    }
    if (!absl::IsUnimplemented(canonical.status())) return canonical.status();
  }
  matrices_[name] = F32Matrix(values);
  canonical_ = false;
  return absl::OkStatus();
}

absl::Status ReplacedWeights::Vector(const std::string& name, const VectorF& values) {
  vectors_[name].assign(values.data(), values.data() + values.size());
  return absl::OkStatus();
}

void ReplacedWeights::InputRange(int32_t layer, Site site, float max) {
  ranges_[{layer, site}] = max;
}

float ReplacedWeights::input_range(int32_t layer, Site site) const {
  const auto found = ranges_.find({layer, site});
  return found == ranges_.end() ? 0 : found->second;
}

absl::StatusOr<quant::Matrix> ReplacedWeights::LoadRows(absl::string_view name, int32_t rows,
                                                        int32_t cols, RowRange range) const {
  const auto found = matrices_.find(std::string(name));
  if (found == matrices_.end()) return original_.LoadRows(name, rows, cols, range);
  if (found->second.rows != rows || found->second.cols != cols) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' was replaced by one of [",
                                                   found->second.rows, ", ", found->second.cols,
                                                   "], needed [", rows, ", ", cols, "]"));
  }
  return SliceRows(found->second, range);
}

absl::StatusOr<std::vector<float>> ReplacedWeights::LoadVector(absl::string_view name,
                                                               int32_t n) const {
  const auto found = vectors_.find(std::string(name));
  if (found == vectors_.end()) return original_.LoadVector(name, n);
  if (found->second.size() != static_cast<size_t>(n)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' was replaced by one of ",
                                                   found->second.size(), ", needed ", n));
  }
  return found->second;
}

absl::StatusOr<SourceIdentity> ReplacedWeights::Identity() const {
  return absl::UnimplementedError("weights that were replaced in memory are not a file");
}

}  // namespace nibble::quantize

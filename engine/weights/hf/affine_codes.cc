// Codes, scales and zeros to a canonical matrix; bit streams; rows in another order.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/weights/hf/linear_layout.h"
#include "kernels/check.h"

namespace nibble {
namespace {

using quant::Format;
using quant::Matrix;

void PackNibbles(const std::vector<uint8_t>& codes, std::vector<uint8_t>& out) {
  out.resize(codes.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }
}

int32_t ZeroOf(const AffineCodes& codes, size_t group) {
  return codes.zeros.size() == 1 ? codes.zeros[0] : codes.zeros[group];
}

// Every product and sum is exact: s has at most 11 bits, q and z 8.
void FillAffine(const AffineCodes& codes, Matrix& matrix) {
  const bool eight = codes.bits == 8;
  const int32_t bias = eight ? 128 : 0;  // int8 holds q - 128
  matrix.format = eight ? Format::kInt8 : Format::kInt4Affine;
  matrix.scales = codes.scales;
  if (eight) {
    matrix.codes.resize(codes.codes.size());
    std::transform(codes.codes.begin(), codes.codes.end(), matrix.codes.begin(),
                   [](uint8_t code) { return static_cast<uint8_t>(code - 128); });
  } else {
    PackNibbles(codes.codes, matrix.codes);
  }
  if (eight && codes.zeros.size() == 1 && codes.zeros[0] == bias) return;  // symmetric
  matrix.offsets.resize(codes.scales.size());
  for (size_t g = 0; g < codes.scales.size(); ++g) {
    matrix.offsets[g] = static_cast<float>(bias - ZeroOf(codes, g)) * codes.scales[g];
  }
}

void FillTable(const AffineCodes& codes, Matrix& matrix) {
  NIBBLE_CHECK(codes.zeros.size() == 1);
  matrix.format = Format::kLut4;
  matrix.scales = codes.scales;
  PackNibbles(codes.codes, matrix.codes);
  for (int q = 0; q < 16; ++q) matrix.table[q] = static_cast<float>(q - codes.zeros[0]);
}

void FillSigned(const AffineCodes& codes, Matrix& matrix) {
  matrix.format = Format::kInt8;
  matrix.scales = codes.scales;
  matrix.codes.resize(codes.codes.size());
  for (size_t i = 0; i < codes.codes.size(); ++i) {
    const int32_t zero = ZeroOf(codes, i / static_cast<size_t>(codes.group));
    matrix.codes[i] = static_cast<uint8_t>(static_cast<int8_t>(codes.codes[i] - zero));
  }
}

void FillValues(const AffineCodes& codes, Matrix& matrix) {
  matrix.format = Format::kF32;
  matrix.group = 0;
  const int32_t groups = static_cast<int32_t>(codes.scales.size()) / codes.rows;
  std::vector<float> values(codes.codes.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const auto n = static_cast<int32_t>(i / static_cast<size_t>(codes.cols));
    const auto k = static_cast<int32_t>(i % static_cast<size_t>(codes.cols));
    const int32_t group = codes.group_of.empty() ? k / codes.group : codes.group_of[k];
    const auto at = static_cast<size_t>(n) * groups + group;
    values[i] = codes.scales[at] * static_cast<float>(codes.codes[i] - ZeroOf(codes, at));
  }
  matrix.codes.resize(values.size() * sizeof(float));
  std::memcpy(matrix.codes.data(), values.data(), matrix.codes.size());
}

// Elements of a row of `format` in bytes of codes, times two.
int64_t HalfBytesACode(Format format) {
  switch (format) {
    case Format::kInt4Affine:
    case Format::kLut4:
    case Format::kQ4K:
      return 1;
    case Format::kBf16:
      return 4;
    case Format::kF32:
      return 8;
    default:
      return 2;
  }
}

template <typename T>
void GatherRuns(const std::vector<T>& from, int64_t run, absl::Span<const int32_t> rows,
                std::vector<T>& to) {
  if (from.empty()) return;
  to.resize(rows.size() * static_cast<size_t>(run));
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(from.begin() + rows[i] * run, run, to.begin() + static_cast<int64_t>(i) * run);
  }
}

// The row of scales that each output row group reads.
absl::StatusOr<std::vector<int32_t>> ScaleRows(const Matrix& matrix,
                                               absl::Span<const int32_t> rows) {
  std::vector<int32_t> sources;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t source = rows[i] / matrix.row_group;
    if (i % static_cast<size_t>(matrix.row_group) == 0) sources.push_back(source);
    if (sources.back() == source) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("scales cover ", matrix.row_group,
                     " rows, which the order of RoPE's rows would tear apart"));
  }
  return sources;
}

}  // namespace

AffineForm ChooseAffineForm(int bits, bool narrow_scales, bool one_zero) {
  if (narrow_scales || (bits == 8 && one_zero)) return AffineForm::kAffine;
  if (bits == 8) return AffineForm::kValues;
  return one_zero ? AffineForm::kTable : AffineForm::kSigned;
}

CanonicalForm FormOfAffine(AffineForm form, int bits, int32_t group, bool one_zero,
                           bool scales_are_f16) {
  CanonicalForm out;
  out.group = group;
  out.scale_bytes = scales_are_f16 ? 2 : 4;
  switch (form) {
    case AffineForm::kAffine:
      out.format = bits == 8 ? Format::kInt8 : Format::kInt4Affine;
      out.offsets = bits != 8 || !one_zero;
      out.zero_point = one_zero && scales_are_f16;
      out.wider = bits < 4;
      return out;
    case AffineForm::kTable:
      out.format = Format::kLut4;
      out.wider = bits < 4;
      return out;
    case AffineForm::kSigned:
      out.format = Format::kInt8;
      out.wider = true;
      return out;
    case AffineForm::kValues:
      return {.format = Format::kF32, .wider = true};
  }
  return out;
}

Matrix MakeAffine(const AffineCodes& codes, AffineForm form) {
  Matrix matrix;
  matrix.rows = codes.rows;
  matrix.cols = codes.cols;
  matrix.group = codes.group;
  switch (form) {
    case AffineForm::kAffine:
      FillAffine(codes, matrix);
      break;
    case AffineForm::kTable:
      FillTable(codes, matrix);
      break;
    case AffineForm::kSigned:
      FillSigned(codes, matrix);
      break;
    case AffineForm::kValues:
      FillValues(codes, matrix);
      break;
  }
  return matrix;
}

uint32_t UnpackBits(const uint32_t* words, int64_t stride, int64_t index, int bits) {
  const int64_t at = index * bits;
  const int shift = static_cast<int>(at % 32);
  uint64_t both = words[at / 32 * stride];
  if (shift + bits > 32) both |= static_cast<uint64_t>(words[(at / 32 + 1) * stride]) << 32;
  return static_cast<uint32_t>(both >> shift) & ((1u << bits) - 1);
}

std::vector<uint32_t> ToWords(const std::vector<uint8_t>& bytes) {
  std::vector<uint32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), words.size() * 4);
  return words;
}

absl::StatusOr<Matrix> GatherRows(const Matrix& matrix, absl::Span<const int32_t> rows) {
  Matrix out;
  out.format = matrix.format;
  out.rows = static_cast<int32_t>(rows.size());
  out.cols = matrix.cols;
  out.group = matrix.group;
  out.fp8 = matrix.fp8;
  std::copy(std::begin(matrix.table), std::end(matrix.table), std::begin(out.table));
  GatherRuns(matrix.codes, matrix.cols * HalfBytesACode(matrix.format) / 2, rows, out.codes);
  GatherRuns(matrix.sub_scales, static_cast<int64_t>(matrix.sub_scales.size()) / matrix.rows, rows,
             out.sub_scales);
  if (matrix.row_group == matrix.rows && matrix.rows > 1) {  // one scale for all
    out.row_group = out.rows;
    out.scales = matrix.scales;
    return out;
  }
  out.row_group = matrix.row_group;
  absl::StatusOr<std::vector<int32_t>> sources = ScaleRows(matrix, rows);
  if (!sources.ok()) return sources.status();
  const int64_t scale_rows = (matrix.rows + matrix.row_group - 1) / matrix.row_group;
  const int64_t run = static_cast<int64_t>(matrix.scales.size()) / scale_rows;
  GatherRuns(matrix.scales, run, *sources, out.scales);
  GatherRuns(matrix.offsets, run, *sources, out.offsets);
  return out;
}

}  // namespace nibble

#include "kernels/quant/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/half.h"

namespace nibble::quant {
namespace {

// Half of int32: row and column indices, and a few rows of padding, never overflow.
constexpr int32_t kMaxSide = 1 << 30;

bool HasGroups(Format format) { return format != Format::kBf16 && format != Format::kF32; }

int64_t CodeBytes(const Matrix& matrix) {
  const int64_t elements = static_cast<int64_t>(matrix.rows) * matrix.cols;
  switch (matrix.format) {
    case Format::kInt4Affine:
    case Format::kLut4:
      return elements / 2;
    case Format::kInt8:
    case Format::kFp8:
      return elements;
    case Format::kBf16:
      return elements * 2;
    case Format::kF32:
      return elements * 4;
  }
  return 0;
}

absl::Status Refuse(const Matrix& matrix, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(FormatName(matrix.format), " matrix [",
                                                 matrix.rows, ", ", matrix.cols, "]: ", what));
}

absl::Status CheckCount(const Matrix& matrix, absl::string_view field, size_t found,
                        int64_t needed) {
  if (static_cast<int64_t>(found) == needed) return absl::OkStatus();
  return Refuse(matrix, absl::StrCat(field, " has ", found, " entries, needs ", needed));
}

absl::Status CheckGroup(const Matrix& matrix) {
  if (!HasGroups(matrix.format)) {
    if (matrix.group != 0)
      return Refuse(matrix, absl::StrCat("group is ", matrix.group, ", needs 0"));
    return absl::OkStatus();
  }
  if (matrix.group < 1 || matrix.cols % matrix.group != 0) {
    return Refuse(matrix, absl::StrCat("group ", matrix.group, " does not divide the columns"));
  }
  if (matrix.group % 16 != 0 && matrix.group != matrix.cols) {
    return Refuse(matrix, absl::StrCat("group ", matrix.group,
                                       " is neither a multiple of 16 nor the whole row"));
  }
  return absl::OkStatus();
}

// fp8 scales come as one, one a row, or one a 128 x 128 block (the last blocks may be partial).
absl::Status CheckFp8Scales(const Matrix& matrix) {
  const int64_t found = static_cast<int64_t>(matrix.scales.size());
  const int64_t blocks =
      static_cast<int64_t>((matrix.rows + 127) / 128) * ((matrix.cols + 127) / 128);
  if (found == 1 || found == matrix.rows || found == blocks) return absl::OkStatus();
  return Refuse(matrix, absl::StrCat("scales has ", found, " entries, needs 1, ", matrix.rows,
                                     " or ", blocks));
}

float E4m3ToF32(uint8_t code) {
  const float sign = (code & 0x80) != 0 ? -1.0f : 1.0f;
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nanf("");
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

float Fp8Scale(const Matrix& matrix, int32_t n, int32_t k) {
  const size_t count = matrix.scales.size();
  if (count == 1) return matrix.scales[0];
  if (count == static_cast<size_t>(matrix.rows)) return matrix.scales[n];
  const size_t blocks_across = (matrix.cols + 127) / 128;
  return matrix.scales[n / 128 * blocks_across + k / 128];
}

int32_t Nibble(const Matrix& matrix, size_t element) {
  const uint8_t byte = matrix.codes[element / 2];
  return element % 2 == 0 ? byte & 15 : byte >> 4;
}

uint16_t LoadU16(const Matrix& matrix, size_t element) {
  return static_cast<uint16_t>(matrix.codes[2 * element] | matrix.codes[2 * element + 1] << 8);
}

float LoadF32(const Matrix& matrix, size_t element) {
  const uint8_t* p = &matrix.codes[4 * element];
  return std::bit_cast<float>(static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
                              static_cast<uint32_t>(p[2]) << 16 |
                              static_cast<uint32_t>(p[3]) << 24);
}

float Element(const Matrix& matrix, int32_t n, int32_t k) {
  const size_t element = static_cast<size_t>(n) * matrix.cols + k;
  if (matrix.format == Format::kBf16) return Bf16ToF32(LoadU16(matrix, element));
  if (matrix.format == Format::kF32) return LoadF32(matrix, element);
  if (matrix.format == Format::kFp8) {
    return Fp8Scale(matrix, n, k) * E4m3ToF32(matrix.codes[element]);
  }
  const size_t group = element / matrix.group;  // group divides cols, so groups number along rows
  const float scale = matrix.scales[group];
  if (matrix.format == Format::kLut4) return scale * matrix.table[Nibble(matrix, element)];
  const int32_t code = matrix.format == Format::kInt4Affine
                           ? Nibble(matrix, element)
                           : static_cast<int8_t>(matrix.codes[element]);
  const float product = scale * static_cast<float>(code);
  return matrix.offsets.empty() ? product : product + matrix.offsets[group];
}

}  // namespace

absl::string_view FormatName(Format format) {
  switch (format) {
    case Format::kInt4Affine:
      return "int4-affine";
    case Format::kLut4:
      return "lut4";
    case Format::kInt8:
      return "int8";
    case Format::kFp8:
      return "fp8";
    case Format::kBf16:
      return "bf16";
    case Format::kF32:
      return "f32";
  }
  return "unknown";
}

absl::Status Validate(const Matrix& matrix) {
  if (FormatName(matrix.format) == "unknown") {
    return Refuse(matrix, absl::StrCat("format ", static_cast<int>(matrix.format), " is not one"));
  }
  if (matrix.rows < 1 || matrix.cols < 1 || matrix.rows > kMaxSide || matrix.cols > kMaxSide) {
    return Refuse(matrix, absl::StrCat("each side needs 1 to ", kMaxSide));
  }
  const bool is_4bit = matrix.format == Format::kInt4Affine || matrix.format == Format::kLut4;
  if (is_4bit && matrix.cols % 2 != 0) return Refuse(matrix, "two codes a byte need even columns");
  const bool is_affine = matrix.format == Format::kInt4Affine || matrix.format == Format::kInt8;
  if (matrix.format != Format::kFp8) {
    if (absl::Status status = CheckGroup(matrix); !status.ok()) return status;
  }
  if (absl::Status s = CheckCount(matrix, "codes", matrix.codes.size(), CodeBytes(matrix));
      !s.ok()) {
    return s;
  }
  if (!is_affine && !matrix.offsets.empty())
    return Refuse(matrix, "offsets are not part of the format");
  if (matrix.format == Format::kFp8) return CheckFp8Scales(matrix);
  const int64_t groups = HasGroups(matrix.format)
                             ? static_cast<int64_t>(matrix.rows) * (matrix.cols / matrix.group)
                             : 0;
  if (absl::Status s = CheckCount(matrix, "scales", matrix.scales.size(), groups); !s.ok())
    return s;
  if (matrix.offsets.empty()) return absl::OkStatus();
  return CheckCount(matrix, "offsets", matrix.offsets.size(), groups);
}

bool ScalesFitF16(const Matrix& matrix) {
  const auto fits = [](float value) {
    return std::bit_cast<uint32_t>(F16ToF32(F32ToF16(value))) == std::bit_cast<uint32_t>(value);
  };
  return std::all_of(matrix.scales.begin(), matrix.scales.end(), fits) &&
         std::all_of(matrix.offsets.begin(), matrix.offsets.end(), fits);
}

void DequantizeRow(const Matrix& matrix, int32_t n, float* out) {
  NIBBLE_CHECK(n >= 0 && n < matrix.rows);
  for (int32_t k = 0; k < matrix.cols; ++k) out[k] = Element(matrix, n, k);
}

}  // namespace nibble::quant

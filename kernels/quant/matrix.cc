#include "kernels/quant/matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble::quant {
namespace {

// Half of int32: row and column indices, and a few rows of padding, never overflow.
constexpr int32_t kMaxSide = 1 << 30;

bool HasGroups(Format format) { return format != Format::kBf16 && format != Format::kF32; }

bool TwoCodesAByte(Format format) {
  return format == Format::kInt4Affine || format == Format::kLut4 || format == Format::kQ4K;
}

int64_t CodeBytes(const Matrix& matrix) {
  const int64_t elements = static_cast<int64_t>(matrix.rows) * matrix.cols;
  switch (matrix.format) {
    case Format::kInt4Affine:
    case Format::kLut4:
    case Format::kQ4K:
      return elements / 2;
    case Format::kInt5Affine:
    case Format::kInt8:
    case Format::kQ5K:
    case Format::kQ6K:
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

// A 6-bit scale and a 6-bit min for 32 columns.
bool HasSubMins(Format format) { return format == Format::kQ4K || format == Format::kQ5K; }

bool IsKQuant(Format format) { return HasSubMins(format) || format == Format::kQ6K; }

bool MayHaveOffsets(Format format) {
  return format == Format::kInt4Affine || format == Format::kInt5Affine ||
         format == Format::kInt8 || HasSubMins(format);
}

int32_t DivideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

int64_t NumScales(const Matrix& matrix) {
  if (!HasGroups(matrix.format)) return 0;
  return static_cast<int64_t>(DivideUp(matrix.rows, matrix.row_group)) *
         DivideUp(matrix.cols, matrix.group);
}

int64_t NumSubScales(const Matrix& matrix) {
  const int64_t elements = static_cast<int64_t>(matrix.rows) * matrix.cols;
  if (HasSubMins(matrix.format)) return elements / kQ4KSubBlock * 2;
  if (matrix.format == Format::kQ6K) return elements / kQ6KSubBlock;
  return 0;
}

// By tensor, by row, or by 128 x 128.
absl::Status CheckFp8Groups(const Matrix& matrix) {
  const bool row_wide = matrix.group == matrix.cols;
  if (row_wide && (matrix.row_group == matrix.rows || matrix.row_group == 1)) {
    return absl::OkStatus();
  }
  if (matrix.row_group == kFp8Block && matrix.group == kFp8Block) return absl::OkStatus();
  return Refuse(matrix, absl::StrCat("a scale covers [", matrix.row_group, ", ", matrix.group,
                                     "], needs the tensor, a row, or [128, 128]"));
}

absl::Status CheckGroup(const Matrix& matrix) {
  if (matrix.format == Format::kFp8) return CheckFp8Groups(matrix);
  if (matrix.row_group != 1) {
    return Refuse(matrix, absl::StrCat("row_group is ", matrix.row_group, ", needs 1"));
  }
  if (!HasGroups(matrix.format)) {
    if (matrix.group != 0)
      return Refuse(matrix, absl::StrCat("group is ", matrix.group, ", needs 0"));
    return absl::OkStatus();
  }
  if (IsKQuant(matrix.format) && matrix.group != kSuperBlock) {
    return Refuse(matrix, absl::StrCat("group is ", matrix.group, ", needs ", kSuperBlock));
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

absl::Status CheckSizes(const Matrix& matrix) {
  if (absl::Status s = CheckCount(matrix, "codes", matrix.codes.size(), CodeBytes(matrix));
      !s.ok()) {
    return s;
  }
  if (!MayHaveOffsets(matrix.format) && !matrix.offsets.empty()) {
    return Refuse(matrix, "offsets are not part of the format");
  }
  const int64_t scales = NumScales(matrix);
  if (absl::Status s = CheckCount(matrix, "scales", matrix.scales.size(), scales); !s.ok()) {
    return s;
  }
  if (absl::Status s =
          CheckCount(matrix, "sub_scales", matrix.sub_scales.size(), NumSubScales(matrix));
      !s.ok()) {
    return s;
  }
  if (matrix.offsets.empty() && !HasSubMins(matrix.format)) return absl::OkStatus();
  return CheckCount(matrix, "offsets", matrix.offsets.size(), scales);
}

// What a packed layout of fewer bits relies on.
absl::Status CheckValues(const Matrix& matrix) {
  const auto all = [](const std::vector<uint8_t>& bytes, auto&& holds) {
    return std::all_of(bytes.begin(), bytes.end(), holds);
  };
  if (IsKQuant(matrix.format) && !ScalesFitF16(matrix)) {
    return Refuse(matrix, "a scale or offset is not exactly an f16");
  }
  if (HasSubMins(matrix.format) &&
      !all(matrix.sub_scales, [](uint8_t byte) { return byte < 64; })) {
    return Refuse(matrix, "a sub-scale is above 63");
  }
  const bool five_bits = matrix.format == Format::kInt5Affine || matrix.format == Format::kQ5K;
  if (five_bits && !all(matrix.codes, [](uint8_t byte) { return byte < 32; })) {
    return Refuse(matrix, "a code is above 31");
  }
  if (matrix.format == Format::kQ6K && !all(matrix.codes, [](uint8_t byte) {
        return static_cast<int8_t>(byte) >= -32 && static_cast<int8_t>(byte) < 32;
      })) {
    return Refuse(matrix, "a code is not in -32 .. 31");
  }
  if (matrix.format == Format::kLut4 &&
      !std::all_of(std::begin(matrix.table), std::end(matrix.table),
                   [](float entry) { return std::isfinite(entry); })) {
    return Refuse(matrix, "an entry of the table is not finite");
  }
  const bool e4m3 = matrix.fp8 == Fp8::kE4m3;
  if (matrix.format == Format::kFp8 && !all(matrix.codes, [e4m3](uint8_t byte) {
        return e4m3 ? !E4m3IsNan(byte) : E5m2IsFinite(byte);
      })) {
    return Refuse(matrix, "a code is NaN or infinite");
  }
  return absl::OkStatus();
}

float Fp8Element(const Matrix& matrix, int32_t n, int32_t k) {
  const uint8_t code = matrix.codes[static_cast<size_t>(n) * matrix.cols + k];
  const size_t scales_across = DivideUp(matrix.cols, matrix.group);
  const float scale = matrix.scales[n / matrix.row_group * scales_across + k / matrix.group];
  return scale * (matrix.fp8 == Fp8::kE4m3 ? E4m3ToF32(code) : E5m2ToF32(code));
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

// Of the integer formats. Five bits are never negative.
int32_t Code(const Matrix& matrix, size_t element) {
  return TwoCodesAByte(matrix.format) ? Nibble(matrix, element)
                                      : static_cast<int8_t>(matrix.codes[element]);
}

// Group `group`, of which `element` is one.
float KQuantElement(const Matrix& matrix, size_t element, size_t group) {
  if (matrix.format == Format::kQ6K) {
    const auto sub = static_cast<int8_t>(matrix.sub_scales[element / kQ6KSubBlock]);
    return matrix.scales[group] * static_cast<float>(sub) *
           static_cast<float>(Code(matrix, element));
  }
  const uint8_t* sub = &matrix.sub_scales[element / kQ4KSubBlock * 2];
  const float scale = matrix.scales[group] * static_cast<float>(sub[0]);
  const float offset = matrix.offsets[group] * static_cast<float>(sub[1]);
  return scale * static_cast<float>(Code(matrix, element)) + offset;
}

float Element(const Matrix& matrix, int32_t n, int32_t k) {
  const size_t element = static_cast<size_t>(n) * matrix.cols + k;
  if (matrix.format == Format::kBf16) return Bf16ToF32(LoadU16(matrix, element));
  if (matrix.format == Format::kF32) return LoadF32(matrix, element);
  if (matrix.format == Format::kFp8) return Fp8Element(matrix, n, k);
  const size_t group = element / matrix.group;  // group divides cols, so groups number along rows
  if (IsKQuant(matrix.format)) return KQuantElement(matrix, element, group);
  const float scale = matrix.scales[group];
  if (matrix.format == Format::kLut4) return scale * matrix.table[Nibble(matrix, element)];
  const float product = scale * static_cast<float>(Code(matrix, element));
  return matrix.offsets.empty() ? product : product + matrix.offsets[group];
}

}  // namespace

absl::string_view FormatName(Format format) {
  switch (format) {
    case Format::kInt4Affine:
      return "int4-affine";
    case Format::kInt5Affine:
      return "int5-affine";
    case Format::kLut4:
      return "lut4";
    case Format::kInt8:
      return "int8";
    case Format::kQ4K:
      return "q4_k";
    case Format::kQ5K:
      return "q5_k";
    case Format::kQ6K:
      return "q6_k";
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
  if (TwoCodesAByte(matrix.format) && matrix.cols % 2 != 0) {
    return Refuse(matrix, "two codes a byte need even columns");
  }
  if (absl::Status status = CheckGroup(matrix); !status.ok()) return status;
  if (absl::Status status = CheckSizes(matrix); !status.ok()) return status;
  return CheckValues(matrix);
}

bool ScalesFitF16(const Matrix& matrix) {
  const auto fits = [](float value) {
    return std::bit_cast<uint32_t>(F16ToF32(F32ToF16(value))) == std::bit_cast<uint32_t>(value);
  };
  return std::all_of(matrix.scales.begin(), matrix.scales.end(), fits) &&
         std::all_of(matrix.offsets.begin(), matrix.offsets.end(), fits);
}

bool ScalesFitE8m0(const Matrix& matrix) {
  const auto fits = [](float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return (bits & 0x807FFFFFu) == 0 && bits != 0 && bits != 0x7F800000u;
  };
  return matrix.offsets.empty() && std::all_of(matrix.scales.begin(), matrix.scales.end(), fits);
}

void DequantizeRow(const Matrix& matrix, int32_t n, float* out) {
  NIBBLE_CHECK(n >= 0 && n < matrix.rows);
  for (int32_t k = 0; k < matrix.cols; ++k) out[k] = Element(matrix, n, k);
}

}  // namespace nibble::quant

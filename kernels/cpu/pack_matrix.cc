// PackCpu: from a canonical matrix to the layout of packed_matrix.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/weight_element.h"
#include "kernels/half.h"

namespace nibble {
namespace cpu {
namespace {

using quant::Format;

constexpr int32_t kInt8ZeroPoint = 128;
constexpr int32_t kInt6ZeroPoint = 32;
constexpr int32_t kInt5ZeroPoint = 16;
constexpr int32_t kInt4ZeroPoint = 8;

// 0 for formats that have none.
int32_t ZeroPointOf(Format format) {
  if (format == Format::kInt4Affine) return kInt4ZeroPoint;
  return format == Format::kInt5Affine ? kInt5ZeroPoint : 0;
}

// Q4_0's offsets, and Q5_0's. With f16 scales s * (q - z) and s * q - z * s are the same number
// exactly, so nothing is lost.
bool OffsetsAreAZeroPoint(const quant::Matrix& matrix) {
  const int32_t zero_point = ZeroPointOf(matrix.format);
  if (matrix.offsets.empty() || zero_point == 0) return false;
  for (size_t i = 0; i < matrix.scales.size(); ++i) {
    if (matrix.offsets[i] != static_cast<float>(-zero_point) * matrix.scales[i]) return false;
  }
  return true;
}

// Words have no infinity and no NaN, which must not look like weights.
bool ScalesAreFinite(const quant::Matrix& matrix) {
  const auto finite = [](float x) { return std::isfinite(x); };
  return std::all_of(matrix.scales.begin(), matrix.scales.end(), finite) &&
         std::all_of(matrix.offsets.begin(), matrix.offsets.end(), finite);
}

// Groups that are no multiple of 32 columns: one scale every 16 then.
bool IsNarrow(const quant::Matrix& matrix) { return matrix.group % kGroup != 0; }

Storage StorageOf(const quant::Matrix& matrix) {
  switch (matrix.format) {
    case Format::kInt4Affine:
      return IsNarrow(matrix) ? Storage::kInt8 : Storage::kInt4;
    case Format::kInt5Affine:
      return IsNarrow(matrix) ? Storage::kInt8 : Storage::kInt5;
    case Format::kQ4K:
      return Storage::kInt4;
    case Format::kQ5K:
      return Storage::kInt5;
    case Format::kLut4:
      return Storage::kLut4;
    case Format::kInt8:
      return Storage::kInt8;
    case Format::kQ6K:
      return Storage::kInt6;
    case Format::kFp8:
      return matrix.fp8 == quant::Fp8::kE4m3 ? Storage::kE4m3 : Storage::kE5m2;
    case Format::kBf16:
      return Storage::kBf16;
    case Format::kF32:
      break;
  }
  return Storage::kF32;
}

bool HasSubMins(const quant::Matrix& matrix) {
  return matrix.format == Format::kQ4K || matrix.format == Format::kQ5K;
}

ScaleType ScaleTypeOf(const quant::Matrix& matrix, const PackFacts& facts) {
  if (matrix.group == 0) return ScaleType::kF32;  // no scales
  if (HasSubMins(matrix)) return ScaleType::kQ4K;
  if (matrix.format == Format::kQ6K) return ScaleType::kQ6K;
  if (matrix.format == Format::kLut4 && facts.scales_fit_e8m0) return ScaleType::kE8m0;
  if (!facts.scales_fit_f16) return ScaleType::kF32;
  const bool words = facts.words_serve && StorageOf(matrix) == Storage::kInt4;
  return words ? ScaleType::kWords : ScaleType::kF16;
}

// Columns of a scale here; the k-quants' inner ones.
int32_t GroupOf(const quant::Matrix& matrix) {
  if (HasSubMins(matrix)) return quant::kQ4KSubBlock;
  if (matrix.format == Format::kQ6K) return quant::kQ6KSubBlock;
  return IsInt(StorageOf(matrix)) && IsNarrow(matrix) ? 16 : matrix.group;
}

}  // namespace

PackFacts FactsOf(const quant::Matrix& matrix, CpuActivations activations) {
  const bool fit = quant::ScalesFitF16(matrix);
  return {.scales_fit_f16 = fit,
          .scales_fit_e8m0 = quant::ScalesFitE8m0(matrix),
          .offsets_are_a_zero_point = fit && OffsetsAreAZeroPoint(matrix),
          .words_serve = activations == CpuActivations::kInt8 && fit &&
                         StorageOf(matrix) == Storage::kInt4 && ScalesAreFinite(matrix)};
}

CpuMatrix::Shape ChooseShape(const quant::Matrix& matrix, int32_t rows, const PackFacts& facts) {
  CpuMatrix::Shape shape{.rows = rows,
                         .cols = matrix.cols,
                         .group = GroupOf(matrix),
                         .storage = StorageOf(matrix),
                         .scale_type = ScaleTypeOf(matrix, facts),
                         .has_offsets = !matrix.offsets.empty()};
  if (shape.storage == Storage::kLut4) shape.table = std::to_array(matrix.table);
  if (matrix.format == Format::kQ6K) shape.zero_point = kInt6ZeroPoint;
  if (shape.storage == Storage::kInt8 || shape.storage == Storage::kLut4) {
    shape.zero_point = kInt8ZeroPoint;
  } else if (facts.offsets_are_a_zero_point) {
    shape.zero_point = ZeroPointOf(matrix.format);
    shape.has_offsets = false;
  } else if (shape.storage == Storage::kInt5) {
    shape.has_offsets = true;  // there is no kernel without, and no file has such a matrix
  }
  return shape;
}

namespace {

// Codes of `size` bytes each, column after column of 16 rows.
void PackFloats(const quant::Matrix& matrix, int size, CpuMatrix& packed) {
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t k = 0; k < matrix.cols; ++k) {
      const int64_t from = static_cast<int64_t>(n) * matrix.cols + k;
      std::memcpy(packed.codes() + size * FloatCodeAt(n, k, matrix.cols),
                  matrix.codes.data() + size * from, size);
    }
  }
}

// Code `element` of the canonical matrix as a byte of the int8 layout, to which int4 and int5
// widen.
uint8_t BiasedCode(const quant::Matrix& matrix, int64_t element) {
  if (matrix.format != Format::kInt4Affine) {
    return static_cast<uint8_t>(matrix.codes[element] + kInt8ZeroPoint);
  }
  const uint8_t byte = matrix.codes[element / 2];
  return static_cast<uint8_t>((element % 2 == 0 ? byte & 15 : byte >> 4) + kInt8ZeroPoint);
}

void PackInt8Codes(const quant::Matrix& matrix, CpuMatrix& packed) {
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t k = 0; k < matrix.cols; k += 4) {  // four columns stay neighbours
      uint8_t* to = packed.codes() + Int8CodeAt(n, k, matrix.cols);
      const int64_t from = static_cast<int64_t>(n) * matrix.cols + k;
      for (int32_t i = 0; i < 4; ++i) to[i] = BiasedCode(matrix, from + i);
    }
  }
}

void PackInt5Codes(const quant::Matrix& matrix, CpuMatrix& packed) {
  const int32_t cols = matrix.cols;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t k = 0; k < cols; ++k) {
      const uint8_t code = matrix.codes[static_cast<int64_t>(n) * cols + k];
      packed.codes()[Int5LowAt(n, k, cols)] |=
          static_cast<uint8_t>((code & 15) << (Int4IsHighNibble(k) ? 4 : 0));
      packed.codes()[Int5HighAt(n, k, cols)] |= static_cast<uint8_t>(code >> 4 << Int5HighShift(k));
    }
  }
}

void PackInt6Codes(const quant::Matrix& matrix, CpuMatrix& packed) {
  const int32_t cols = matrix.cols;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t k = 0; k < cols; ++k) {
      const auto code = static_cast<uint8_t>(
          static_cast<int8_t>(matrix.codes[static_cast<int64_t>(n) * cols + k]) + kInt6ZeroPoint);
      packed.codes()[Int6LowAt(n, k, cols)] |=
          static_cast<uint8_t>((code & 15) << (Int4IsHighNibble(k) ? 4 : 0));
      packed.codes()[Int6HighAt(n, k, cols)] |= static_cast<uint8_t>(code >> 4 << Int6HighShift(k));
    }
  }
}

// Two neighbours in a byte here, two columns 16 apart in a byte there.
void PackInt4Codes(const quant::Matrix& matrix, CpuMatrix& packed) {
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t k = 0; k < matrix.cols; k += k % 32 == 14 ? 18 : 2) {  // the first half of each 32
      uint8_t* to = packed.codes() + Int4CodeAt(n, k, matrix.cols);
      const uint8_t* from = matrix.codes.data() + (static_cast<int64_t>(n) * matrix.cols + k) / 2;
      const uint8_t low = from[0];
      const uint8_t high = from[8];  // 16 columns on
      to[0] = static_cast<uint8_t>((low & 15) | high << 4);
      to[1] = static_cast<uint8_t>(low >> 4 | (high & 0xF0));
    }
  }
}

void PackCodes(const quant::Matrix& matrix, CpuMatrix& packed) {
  switch (packed.shape().storage) {
    case Storage::kInt4:
    case Storage::kLut4:
      return PackInt4Codes(matrix, packed);
    case Storage::kInt5:
      return PackInt5Codes(matrix, packed);
    case Storage::kInt6:
      return PackInt6Codes(matrix, packed);
    case Storage::kInt8:
      return PackInt8Codes(matrix, packed);
    case Storage::kE4m3:
    case Storage::kE5m2:
      return PackFloats(matrix, 1, packed);
    case Storage::kBf16:
      return PackFloats(matrix, 2, packed);
    case Storage::kF32:
      return PackFloats(matrix, 4, packed);
  }
}

void StoreF16(uint8_t* to, float value) {
  const uint16_t bits = F32ToF16(value);
  std::memcpy(to, &bits, sizeof(bits));
}

void StoreScale(ScaleType type, uint8_t* scales, int64_t element, float value) {
  if (type == ScaleType::kF16) return StoreF16(scales + 2 * element, value);
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (type == ScaleType::kF32) {
    std::memcpy(scales + 4 * element, &bits, sizeof(bits));
  } else {
    scales[element] = static_cast<uint8_t>(bits >> 23);
  }
}

void PackPlainScales(const quant::Matrix& matrix, CpuMatrix& packed) {
  const CpuMatrix::Shape& shape = packed.shape();
  const int32_t groups = shape.num_groups();
  const int64_t source_groups = (matrix.cols + matrix.group - 1) / matrix.group;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    uint8_t* scales = packed.block_scales(n / kBlockRows);
    const int64_t source_row = n / matrix.row_group * source_groups;
    for (int32_t g = 0; g < groups; ++g) {
      const int64_t source = source_row + static_cast<int64_t>(g) * shape.group / matrix.group;
      const int64_t at = ScaleAt(n % kBlockRows, g, groups, shape.has_offsets);
      StoreScale(shape.scale_type, scales, at, matrix.scales[source]);
      if (!shape.has_offsets) continue;
      StoreScale(shape.scale_type, scales, at + kBlockRows,
                 matrix.offsets.empty() ? 0.0f : matrix.offsets[source]);
    }
  }
}

// A scale and its offset, for codes that are centred at kWordCenter.
struct CenteredScale {
  float scale, offset;
};

// The smallest power of two of which the words of all of these fit 16 bits; 1 for zeros.
float UnitOf(absl::Span<const CenteredScale> row) {
  float largest = 0;
  for (const auto& [scale, offset] : row) {
    largest = std::max({largest, std::fabs(scale) / kMaxScaleWord,
                        std::fabs(offset) / (kOffsetWordUnits * kMaxOffsetWord)});
  }
  int exponent;
  const float mantissa = std::frexp(largest, &exponent);  // 0.5 .. 1
  return largest == 0 ? 1.0f : std::ldexp(1.0f, mantissa == 0.5f ? exponent - 1 : exponent);
}

void StoreWord(uint8_t* words, int64_t index, float value) {
  const auto word = static_cast<int16_t>(std::nearbyint(value));
  std::memcpy(words + 2 * index, &word, sizeof(word));
}

// Rows past the last have words of 0, and the unit 1.
void PackWords(const quant::Matrix& matrix, CpuMatrix& packed) {
  const CpuMatrix::Shape& shape = packed.shape();
  const bool offset_words = shape.has_offset_words();
  const auto center = static_cast<float>(kWordCenter - shape.zero_point);
  std::vector<CenteredScale> row(shape.num_groups());
  for (int32_t n = 0; n < packed.num_blocks() * kBlockRows; ++n) {
    const int64_t source = int64_t{n / matrix.row_group} * shape.num_groups();
    for (int32_t g = 0; g < shape.num_groups() && n < matrix.rows; ++g) {
      const float scale = matrix.scales[source + g];
      const float offset = shape.has_offsets ? matrix.offsets[source + g] : 0;
      row[g] = {scale, offset + center * scale};
    }
    if (n >= matrix.rows) std::fill(row.begin(), row.end(), CenteredScale{});
    const float unit = packed.block_units(n / kBlockRows)[n % kBlockRows] = UnitOf(row);
    uint8_t* const words = packed.block_scales(n / kBlockRows);
    for (int32_t g = 0; g < shape.num_groups(); ++g) {
      const WordPlace at = WordAt(n, g, shape.group, offset_words);
      StoreWord(words, at.scale, row[g].scale / unit);
      if (!offset_words) continue;
      StoreWord(words, at.scale + at.offset, row[g].offset / unit / kOffsetWordUnits);
    }
  }
}

void PackQ4KScales(const quant::Matrix& matrix, CpuMatrix& packed) {
  const int32_t supers = matrix.cols / kSuperCols;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    const int32_t row = n % kBlockRows;
    for (int32_t s = 0; s < supers; ++s) {
      const int64_t source = static_cast<int64_t>(n) * supers + s;
      uint8_t* super =
          packed.block_scales(n / kBlockRows) + SuperAt(row, s, matrix.cols, kQ4KScaleBytes);
      StoreF16(super + 2 * row, matrix.scales[source]);
      StoreF16(super + 32 + 2 * row, matrix.offsets[source]);
      for (int sub = 0; sub < 8; ++sub) {
        const uint8_t scale = matrix.sub_scales[source * 16 + 2 * sub];
        const uint8_t min = matrix.sub_scales[source * 16 + 2 * sub + 1];
        super[Q4KLowAt(row, sub)] = static_cast<uint8_t>((scale & 15) | min << 4);
        super[Q4KHighAt(row, sub)] |= static_cast<uint8_t>(scale >> 4 << Q4KHighShift(sub, false) |
                                                           min >> 4 << Q4KHighShift(sub, true));
      }
    }
  }
}

void PackQ6KScales(const quant::Matrix& matrix, CpuMatrix& packed) {
  const int32_t supers = matrix.cols / kSuperCols;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    const int32_t row = n % kBlockRows;
    for (int32_t s = 0; s < supers; ++s) {
      const int64_t source = static_cast<int64_t>(n) * supers + s;
      uint8_t* super =
          packed.block_scales(n / kBlockRows) + SuperAt(row, s, matrix.cols, kQ6KScaleBytes);
      StoreF16(super + 2 * row, matrix.scales[source]);
      for (int sub = 0; sub < 16; ++sub) {
        super[Q6KSubScaleAt(row, sub)] = matrix.sub_scales[source * 16 + sub];
      }
    }
  }
}

void PackScales(const quant::Matrix& matrix, CpuMatrix& packed) {
  switch (packed.shape().scale_type) {
    case ScaleType::kQ4K:
      return PackQ4KScales(matrix, packed);
    case ScaleType::kQ6K:
      return PackQ6KScales(matrix, packed);
    case ScaleType::kWords:
      return PackWords(matrix, packed);
    default:
      if (packed.shape().group != 0) PackPlainScales(matrix, packed);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuMatrix>> PackWithFacts(const quant::Matrix& matrix,
                                                         const PackFacts& facts,
                                                         WeightMemory* memory) {
  const CpuMatrix::Shape shape = ChooseShape(matrix, matrix.rows, facts);
  if (IsInt(shape.storage) && matrix.cols % kGroup != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "the cpu backend's ", quant::FormatName(matrix.format), " kernel: the matrix has ",
        matrix.cols, " columns, needs a multiple of ", kGroup, "; store it as bf16"));
  }
  auto packed = std::make_unique<CpuMatrix>(shape, memory);
  PackCodes(matrix, *packed);
  PackScales(matrix, *packed);
  return packed;
}

}  // namespace cpu

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackCpu(const quant::Matrix& matrix,
                                                      CpuActivations activations,
                                                      cpu::WeightMemory* memory) {
  if (absl::Status status = quant::Validate(matrix); !status.ok()) return status;
  return cpu::PackWithFacts(matrix, cpu::FactsOf(matrix, activations), memory);
}

}  // namespace nibble

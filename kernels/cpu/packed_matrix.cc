#include "kernels/cpu/packed_matrix.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/linear.h"
#include "kernels/half.h"

namespace nibble {
namespace cpu {
namespace {

int64_t BlockCodeBytes(const CpuMatrix::Shape& shape) {
  const int64_t elements = static_cast<int64_t>(shape.cols) * kBlockRows;
  switch (shape.storage) {
    case Storage::kInt4:
      return elements / 2;
    case Storage::kInt8:
      return elements;
    case Storage::kBf16:
      return elements * 2;
    case Storage::kF32:
      return elements * 4;
  }
  return 0;
}

int64_t BlockScaleBytes(const CpuMatrix::Shape& shape) {
  if (shape.group == 0) return 0;
  const int64_t scales = static_cast<int64_t>(shape.cols / shape.group) * kBlockRows;
  return scales * (shape.has_offsets ? 2 : 1) * (shape.scales_are_f16 ? 2 : 4);
}

AlignedBytes AllocateFrom(WeightMemory* memory, int64_t size_bytes) {
  return memory == nullptr ? AllocateAligned(size_bytes) : memory->Allocate(size_bytes);
}

}  // namespace

CpuMatrix::CpuMatrix(const Shape& shape, WeightMemory* memory)
    : shape_(shape),
      block_code_bytes_(BlockCodeBytes(shape)),
      block_scale_bytes_(BlockScaleBytes(shape)),
      codes_(AllocateFrom(memory, num_blocks() * block_code_bytes_)),
      scales_(AllocateFrom(memory, num_blocks() * block_scale_bytes_)) {}

// The layout only reads them: no borrowed byte is written.
CpuMatrix::CpuMatrix(const Shape& shape, absl::Span<const absl::Span<const uint8_t>> sections,
                     const std::shared_ptr<const void>& owner)
    : shape_(shape),
      block_code_bytes_(BlockCodeBytes(shape)),
      block_scale_bytes_(BlockScaleBytes(shape)),
      codes_(owner, const_cast<uint8_t*>(sections[0].data())),
      scales_(owner, const_cast<uint8_t*>(sections[1].data())) {}

std::array<int64_t, CpuMatrix::kNumSections> CpuMatrix::SectionBytes(const Shape& shape) {
  const int64_t blocks = (int64_t{shape.rows} + kBlockRows - 1) / kBlockRows;
  return {blocks * BlockCodeBytes(shape), blocks * BlockScaleBytes(shape)};
}

std::array<absl::Span<uint8_t>, CpuMatrix::kNumSections> CpuMatrix::sections() {
  const auto bytes = SectionBytes(shape_);
  return {absl::MakeSpan(codes_.get(), static_cast<size_t>(bytes[0])),
          absl::MakeSpan(scales_.get(), static_cast<size_t>(bytes[1]))};
}

std::array<absl::Span<const uint8_t>, CpuMatrix::kNumSections> CpuMatrix::sections() const {
  const auto bytes = SectionBytes(shape_);
  return {absl::MakeConstSpan(codes_.get(), static_cast<size_t>(bytes[0])),
          absl::MakeConstSpan(scales_.get(), static_cast<size_t>(bytes[1]))};
}

WeightBlock CpuMatrix::block(int32_t index) const {
  return {.codes = codes_.get() + index * block_code_bytes_,
          .scales = scales_.get() + index * block_scale_bytes_,
          .cols = shape_.cols,
          .group = shape_.group,
          .zero_point = shape_.zero_point,
          .storage = shape_.storage,
          .scales_are_f16 = shape_.scales_are_f16,
          .has_offsets = shape_.has_offsets};
}

float CpuMatrix::Scale(int64_t element) const {
  if (shape_.scales_are_f16) {
    uint16_t bits;
    std::memcpy(&bits, scales_.get() + 2 * element, sizeof(bits));
    return F16ToF32(bits);
  }
  float value;
  std::memcpy(&value, scales_.get() + 4 * element, sizeof(value));
  return value;
}

void CpuMatrix::DequantizeRow(int32_t n, float* out) const {
  const int32_t cols = shape_.cols;
  if (shape_.storage == Storage::kF32) {
    const auto* codes = reinterpret_cast<const float*>(codes_.get());
    for (int32_t k = 0; k < cols; ++k) out[k] = codes[FloatCodeAt(n, k, cols)];
    return;
  }
  if (shape_.storage == Storage::kBf16) {
    const auto* codes = reinterpret_cast<const uint16_t*>(codes_.get());
    for (int32_t k = 0; k < cols; ++k) out[k] = Bf16ToF32(codes[FloatCodeAt(n, k, cols)]);
    return;
  }
  const int32_t groups = cols / shape_.group;
  for (int32_t g = 0; g < groups; ++g) {
    const int64_t at = ScaleAt(n, g, groups, shape_.has_offsets);
    const float scale = Scale(at);
    const float offset = shape_.has_offsets ? Scale(at + kBlockRows) : 0.0f;
    for (int32_t k = g * shape_.group; k < (g + 1) * shape_.group; ++k) {
      int32_t code;
      if (shape_.storage == Storage::kInt8) {
        code = codes_[Int8CodeAt(n, k, cols)];
      } else {
        const uint8_t byte = codes_[Int4CodeAt(n, k, cols)];
        code = Int4IsHighNibble(k) ? byte >> 4 : byte & 15;
      }
      const float product = scale * static_cast<float>(code - shape_.zero_point);
      out[k] = shape_.has_offsets ? product + offset : product;
    }
  }
}

namespace {

constexpr int32_t kInt8ZeroPoint = 128;
constexpr int32_t kInt4ZeroPoint = 8;

// Q4_0's offsets. With f16 scales s * (q - 8) and s * q - 8 * s are the same number exactly, so
// nothing is lost.
bool OffsetsAreMinusEightScales(const quant::Matrix& matrix) {
  if (matrix.offsets.empty()) return false;
  for (size_t i = 0; i < matrix.scales.size(); ++i) {
    if (matrix.offsets[i] != -8.0f * matrix.scales[i]) return false;
  }
  return true;
}

}  // namespace

PackFacts FactsOf(const quant::Matrix& matrix) {
  const bool fit = quant::ScalesFitF16(matrix);
  const bool int4 = matrix.format == quant::Format::kInt4Affine;
  return {.scales_fit_f16 = fit,
          .offsets_are_minus_eight_scales = fit && int4 && OffsetsAreMinusEightScales(matrix)};
}

CpuMatrix::Shape ChooseShape(const quant::Matrix& matrix, int32_t rows, const PackFacts& facts) {
  CpuMatrix::Shape shape{.rows = rows, .cols = matrix.cols};
  if (matrix.format == quant::Format::kF32 || matrix.format == quant::Format::kBf16) {
    shape.storage = matrix.format == quant::Format::kF32 ? Storage::kF32 : Storage::kBf16;
    return shape;
  }
  const bool narrow_group = matrix.group % kGroup != 0;
  shape.group = narrow_group ? 16 : matrix.group;
  shape.scales_are_f16 = facts.scales_fit_f16;
  shape.has_offsets = !matrix.offsets.empty();
  shape.storage = Storage::kInt8;
  shape.zero_point = kInt8ZeroPoint;
  if (matrix.format == quant::Format::kInt4Affine && !narrow_group) {
    shape.storage = Storage::kInt4;
    const bool fold = facts.offsets_are_minus_eight_scales;
    shape.zero_point = fold ? kInt4ZeroPoint : 0;
    shape.has_offsets = shape.has_offsets && !fold;
  }
  return shape;
}

namespace {

void PackFloats(const quant::Matrix& matrix, CpuMatrix& packed) {
  const int size = matrix.format == quant::Format::kF32 ? 4 : 2;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t k = 0; k < matrix.cols; ++k) {
      const int64_t from = static_cast<int64_t>(n) * matrix.cols + k;
      std::memcpy(packed.codes() + size * FloatCodeAt(n, k, matrix.cols),
                  matrix.codes.data() + size * from, size);
    }
  }
}

// Code `element` of the canonical matrix as a byte of the packed int8 layout. Int4 codes widen to
// it.
uint8_t BiasedCode(const quant::Matrix& matrix, int64_t element) {
  if (matrix.format == quant::Format::kInt8) return matrix.codes[element] ^ 0x80;
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

void StoreScale(CpuMatrix& packed, int64_t element, float value) {
  if (packed.shape().scales_are_f16) {
    const uint16_t bits = F32ToF16(value);
    std::memcpy(packed.scales() + 2 * element, &bits, sizeof(bits));
  } else {
    std::memcpy(packed.scales() + 4 * element, &value, sizeof(value));
  }
}

void PackScales(const quant::Matrix& matrix, CpuMatrix& packed) {
  const CpuMatrix::Shape& shape = packed.shape();
  const int32_t groups = shape.cols / shape.group;
  const int32_t source_groups = matrix.cols / matrix.group;
  for (int32_t n = 0; n < matrix.rows; ++n) {
    for (int32_t g = 0; g < groups; ++g) {
      const int64_t source =
          static_cast<int64_t>(n) * source_groups + g * shape.group / matrix.group;
      const int64_t at = ScaleAt(n, g, groups, shape.has_offsets);
      StoreScale(packed, at, matrix.scales[source]);
      if (shape.has_offsets) StoreScale(packed, at + kBlockRows, matrix.offsets[source]);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuMatrix>> PackWithFacts(const quant::Matrix& matrix,
                                                         const PackFacts& facts,
                                                         WeightMemory* memory) {
  if (matrix.format == quant::Format::kLut4 || matrix.format == quant::Format::kFp8) {
    return absl::UnimplementedError(absl::StrCat("the cpu backend has no kernel for the format ",
                                                 quant::FormatName(matrix.format),
                                                 "; it has int4-affine, int8, bf16 and f32"));
  }
  const bool is_float =
      matrix.format == quant::Format::kF32 || matrix.format == quant::Format::kBf16;
  if (!is_float && matrix.cols % kGroup != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "the cpu backend's ", quant::FormatName(matrix.format), " kernel: the matrix has ",
        matrix.cols, " columns, needs a multiple of ", kGroup, "; store it as bf16"));
  }
  auto packed = std::make_unique<CpuMatrix>(ChooseShape(matrix, matrix.rows, facts), memory);
  if (is_float) {
    PackFloats(matrix, *packed);
  } else {
    if (packed->shape().storage == Storage::kInt4) {
      PackInt4Codes(matrix, *packed);
    } else {
      PackInt8Codes(matrix, *packed);
    }
    PackScales(matrix, *packed);
  }
  return packed;
}

}  // namespace cpu

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackCpu(const quant::Matrix& matrix,
                                                      cpu::WeightMemory* memory) {
  if (absl::Status status = quant::Validate(matrix); !status.ok()) return status;
  return cpu::PackWithFacts(matrix, cpu::FactsOf(matrix), memory);
}

}  // namespace nibble

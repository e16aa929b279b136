#include "kernels/cpu/packed_matrix.h"

#include <algorithm>

#include "kernels/cpu/lut_table.h"
#include "kernels/cpu/weight_element.h"

namespace nibble::cpu {
namespace {

int64_t BlockCodeBytes(const CpuMatrix::Shape& shape) {
  const int64_t elements = static_cast<int64_t>(shape.cols) * kBlockRows;
  switch (shape.storage) {
    case Storage::kInt4:
    case Storage::kLut4:
      return elements / 2;
    case Storage::kInt5:
      return elements / 8 * 5;
    case Storage::kInt6:
      return elements / 4 * 3;
    case Storage::kInt8:
    case Storage::kE4m3:
    case Storage::kE5m2:
      return elements;
    case Storage::kBf16:
      return elements * 2;
    case Storage::kF32:
      return elements * 4;
  }
  return 0;
}

int64_t BlockScaleBytes(const CpuMatrix::Shape& shape) {
  const int64_t scales =
      static_cast<int64_t>(shape.num_groups()) * kBlockRows * (shape.has_offsets ? 2 : 1);
  switch (shape.scale_type) {
    case ScaleType::kF32:
      return scales * 4;
    case ScaleType::kF16:
      return scales * 2;
    case ScaleType::kE8m0:
      return (scales + 31) / 32 * 32;  // the next row block's begin on a multiple of 32 too
    case ScaleType::kWords: {
      const int32_t groups = shape.num_groups();
      const int32_t whole = shape.group > kGroup ? groups : 2 * NumPairs(groups);
      const int32_t arrays = shape.has_offset_words() ? 2 : 1;
      return shape.unit_bytes() + int64_t{whole} * kBlockRows * arrays * 2;
    }
    case ScaleType::kQ4K:
      return static_cast<int64_t>(shape.cols / kSuperCols) * kQ4KScaleBytes;
    case ScaleType::kQ6K:
      return static_cast<int64_t>(shape.cols / kSuperCols) * kQ6KScaleBytes;
  }
  return 0;
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
      scales_(AllocateFrom(memory, num_blocks() * block_scale_bytes_)),
      lut_(MakeLutTable(shape.table)) {}

// The layout only reads them: no borrowed byte is written.
CpuMatrix::CpuMatrix(const Shape& shape, absl::Span<const absl::Span<const uint8_t>> sections,
                     const std::shared_ptr<const void>& owner)
    : shape_(shape),
      block_code_bytes_(BlockCodeBytes(shape)),
      block_scale_bytes_(BlockScaleBytes(shape)),
      codes_(owner, const_cast<uint8_t*>(sections[0].data())),
      scales_(owner, const_cast<uint8_t*>(sections[1].data())),
      lut_(MakeLutTable(shape.table)) {}

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
  const uint8_t* const scales = scales_.get() + index * block_scale_bytes_;
  return {.codes = codes_.get() + index * block_code_bytes_,
          .scales = scales + shape_.unit_bytes(),
          .units = shape_.has_words() ? reinterpret_cast<const float*>(scales) : nullptr,
          .lut = shape_.storage == Storage::kLut4 ? &lut_ : nullptr,
          .cols = shape_.cols,
          .group = shape_.group,
          .zero_point = shape_.zero_point,
          .storage = shape_.storage,
          .scale_type = shape_.scale_type,
          .has_offsets = shape_.has_offsets};
}

void CpuMatrix::DequantizeRow(int32_t n, float* out) const {
  const WeightBlock weight = block(n / kBlockRows);
  const int32_t row = n % kBlockRows;
  for (int32_t k0 = 0; k0 < shape_.cols; k0 += 16) {  // no scale begins elsewhere
    const float scale = shape_.group == 0 ? 1.0f : WeightScale(weight, row, k0);
    const float offset = WeightOffset(weight, row, k0);
    for (int32_t k = k0; k < std::min(k0 + 16, shape_.cols); ++k) {
      out[k] = ScaledWeight(weight, row, k, scale, offset);
    }
  }
}

}  // namespace nibble::cpu

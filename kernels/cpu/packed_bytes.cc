#include "kernels/cpu/packed_bytes.h"

#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble::cpu {
namespace {

constexpr int32_t kMaxSide = 1 << 30;  // as quant::Validate: products of sides fit 63 bits
constexpr uintptr_t kAlignment = 64;

struct Header {
  int32_t rows, cols, group, zero_point, storage, scale_type, has_offsets;
  float table[16];
};

Header HeaderOf(const CpuMatrix::Shape& shape) {
  Header header{.rows = shape.rows,
                .cols = shape.cols,
                .group = shape.group,
                .zero_point = shape.zero_point,
                .storage = static_cast<int32_t>(shape.storage),
                .scale_type = static_cast<int32_t>(shape.scale_type),
                .has_offsets = shape.has_offsets ? 1 : 0,
                .table = {}};
  std::memcpy(header.table, shape.table.data(), sizeof(header.table));
  return header;
}

absl::Status Wrong(absl::string_view what, int64_t found, absl::string_view needed) {
  return absl::DataLossError(
      absl::StrCat("packed matrix: ", what, " is ", found, ", needed ", needed));
}

bool IsFp8(Storage storage) { return storage == Storage::kE4m3 || storage == Storage::kE5m2; }

// The scale types that ChooseShape gives a storage.
bool MayHave(Storage storage, ScaleType type) {
  switch (type) {
    case ScaleType::kF32:
    case ScaleType::kF16:
      return storage != Storage::kInt6;
    case ScaleType::kE8m0:
      return storage == Storage::kLut4;
    case ScaleType::kQ4K:
      return storage == Storage::kInt4 || storage == Storage::kInt5;
    case ScaleType::kQ6K:
      return storage == Storage::kInt6;
    case ScaleType::kWords:
      return storage == Storage::kInt4;
  }
  return false;
}

absl::Status CheckGroup(const CpuMatrix::Shape& shape) {
  const int32_t group = shape.group, cols = shape.cols;
  if (!IsInt(shape.storage)) {
    const bool right = IsFp8(shape.storage) ? group >= 1 && group <= cols : group == 0;
    return right ? absl::OkStatus()
                 : Wrong("the group", group, "0 for floats, 1 .. columns for fp8");
  }
  const bool q4k = shape.scale_type == ScaleType::kQ4K, q6k = shape.scale_type == ScaleType::kQ6K;
  const int32_t unit = q4k || q6k ? kSuperCols : kGroup;
  if (cols % unit != 0) return Wrong("the columns", cols, absl::StrCat("a multiple of ", unit));
  const bool may_be_16 = shape.storage == Storage::kInt8 || shape.storage == Storage::kLut4;
  const bool right =
      q4k   ? group == 32
      : q6k ? group == 16
            : group > 0 && cols % group == 0 && (group % kGroup == 0 || (may_be_16 && group == 16));
  return right ? absl::OkStatus()
               : Wrong("the group", group,
                       "one of the format, a multiple of 32 (or 16) that divides the columns");
}

absl::Status CheckZeroPoint(const CpuMatrix::Shape& shape) {
  const int32_t zero = shape.zero_point;
  const bool k_quant = shape.scale_type == ScaleType::kQ4K || shape.scale_type == ScaleType::kQ6K;
  bool right = zero == 0 && !shape.has_offsets;      // fp8, bf16, f32
  if (k_quant && shape.storage != Storage::kInt6) {  // Q4_K, Q5_K: mins
    return zero == 0 && shape.has_offsets
               ? absl::OkStatus()
               : Wrong("the zero point", zero, "0 beside the mins of a k-quant");
  }
  switch (shape.storage) {
    case Storage::kInt4:
      right = zero == 0 || (zero == 8 && !shape.has_offsets);
      break;
    case Storage::kInt5:
      right = zero == 0 ? shape.has_offsets : zero == 16 && !shape.has_offsets;
      break;
    case Storage::kInt6:
      right = zero == 32 && !shape.has_offsets;
      break;
    case Storage::kInt8:
      right = zero == 128;
      break;
    case Storage::kLut4:
      right = zero == 128 && !shape.has_offsets;
      break;
    default:
      break;
  }
  return right
             ? absl::OkStatus()
             : Wrong("the zero point", zero,
                     shape.has_offsets ? "one of the format beside offsets" : "one of the format");
}

absl::StatusOr<CpuMatrix::Shape> ShapeOf(const Header& header) {
  constexpr auto kLastStorage = static_cast<int32_t>(Storage::kF32);
  constexpr auto kLastScale = static_cast<int32_t>(ScaleType::kWords);
  if (header.rows < 1 || header.rows > kMaxSide) return Wrong("the rows", header.rows, "1 to 2^30");
  if (header.cols < 1 || header.cols > kMaxSide) {
    return Wrong("the columns", header.cols, "1 to 2^30");
  }
  if (header.storage < 0 || header.storage > kLastStorage) {
    return Wrong("the storage", header.storage, absl::StrCat("0 to ", kLastStorage));
  }
  if (header.scale_type < 0 || header.scale_type > kLastScale) {
    return Wrong("the scale type", header.scale_type, absl::StrCat("0 to ", kLastScale));
  }
  if (header.has_offsets != 0 && header.has_offsets != 1) {
    return Wrong("'has offsets'", header.has_offsets, "0 or 1");
  }
  CpuMatrix::Shape shape{.rows = header.rows,
                         .cols = header.cols,
                         .group = header.group,
                         .zero_point = header.zero_point,
                         .storage = static_cast<Storage>(header.storage),
                         .scale_type = static_cast<ScaleType>(header.scale_type),
                         .has_offsets = header.has_offsets == 1};
  for (int i = 0; i < 16; ++i) {
    if (!std::isfinite(header.table[i]))
      return Wrong("a table entry, not finite, number", i, "a number");
    shape.table[i] = header.table[i];
  }
  if (!MayHave(shape.storage, shape.scale_type)) {
    return Wrong("the scale type", header.scale_type, "one of the storage");
  }
  if (absl::Status status = CheckGroup(shape); !status.ok()) return status;
  if (absl::Status status = CheckZeroPoint(shape); !status.ok()) return status;
  return shape;
}

}  // namespace

PackedBytes BytesOf(const PackedMatrix& matrix) {
  const auto& packed = static_cast<const CpuMatrix&>(matrix);
  const Header header = HeaderOf(packed.shape());
  PackedBytes bytes;
  bytes.header.assign(reinterpret_cast<const char*>(&header), sizeof(header));
  for (const absl::Span<const uint8_t> section : packed.sections()) {
    bytes.sections.push_back(section);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<PackedMatrix>> MatrixOf(const PackedBytes& bytes,
                                                       const std::shared_ptr<const void>& owner,
                                                       WeightMemory* memory) {
  Header header;
  if (bytes.header.size() != sizeof(header)) {
    return Wrong("the size of the header", static_cast<int64_t>(bytes.header.size()),
                 absl::StrCat(sizeof(header)));
  }
  std::memcpy(&header, bytes.header.data(), sizeof(header));
  absl::StatusOr<CpuMatrix::Shape> shape = ShapeOf(header);
  if (!shape.ok()) return shape.status();
  if (bytes.sections.size() != CpuMatrix::kNumSections) {
    return Wrong("the number of sections", static_cast<int64_t>(bytes.sections.size()), "2");
  }
  const auto needed = CpuMatrix::SectionBytes(*shape);
  for (int i = 0; i < CpuMatrix::kNumSections; ++i) {
    const auto found = static_cast<int64_t>(bytes.sections[i].size());
    if (found != needed[i]) {
      return Wrong(absl::StrCat("the size of section ", i), found, absl::StrCat(needed[i]));
    }
    if (reinterpret_cast<uintptr_t>(bytes.sections[i].data()) % kAlignment != 0 && found != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("packed matrix: section ", i, " is not 64-byte aligned in memory"));
    }
  }
  if (owner != nullptr) return std::make_unique<CpuMatrix>(*shape, bytes.sections, owner);
  auto copy = std::make_unique<CpuMatrix>(*shape, memory);
  const auto to = copy->sections();
  for (int i = 0; i < CpuMatrix::kNumSections; ++i) {
    if (!to[i].empty()) std::memcpy(to[i].data(), bytes.sections[i].data(), to[i].size());
  }
  return copy;
}

}  // namespace nibble::cpu

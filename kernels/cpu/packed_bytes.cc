#include "kernels/cpu/packed_bytes.h"

#include <array>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/packed_matrix.h"

namespace nibble::cpu {
namespace {

constexpr int kHeaderNumbers = 7;
constexpr int32_t kMaxSide = 1 << 30;  // as quant::Validate: products of sides fit 63 bits
constexpr uintptr_t kAlignment = 64;

using Header = std::array<int32_t, kHeaderNumbers>;

Header HeaderOf(const CpuMatrix::Shape& shape) {
  return {shape.rows,
          shape.cols,
          shape.group,
          shape.zero_point,
          static_cast<int32_t>(shape.storage),
          shape.scales_are_f16 ? 1 : 0,
          shape.has_offsets ? 1 : 0};
}

absl::Status Wrong(absl::string_view what, int64_t found, absl::string_view needed) {
  return absl::DataLossError(
      absl::StrCat("packed matrix: ", what, " is ", found, ", needed ", needed));
}

absl::Status CheckFloat(const CpuMatrix::Shape& shape) {
  if (shape.group != 0) return Wrong("the group", shape.group, "0 for floats");
  if (shape.zero_point != 0) return Wrong("the zero point", shape.zero_point, "0 for floats");
  if (shape.scales_are_f16) return Wrong("'scales are f16'", 1, "0 for floats");
  if (shape.has_offsets) return Wrong("'has offsets'", 1, "0 for floats");
  return absl::OkStatus();
}

absl::Status CheckInt(const CpuMatrix::Shape& shape) {
  const bool int8 = shape.storage == Storage::kInt8;
  if (shape.cols % kGroup != 0) return Wrong("the columns", shape.cols, "a multiple of 32");
  const bool known = shape.group > 0 && (shape.group % kGroup == 0 || (int8 && shape.group == 16));
  if (!known || shape.cols % shape.group != 0) {
    return Wrong("the group", shape.group,
                 "a multiple of 32 (16 for int8) that divides the columns");
  }
  const int32_t zero = shape.zero_point;
  if (int8 ? zero != 128 : zero != 0 && zero != 8) {
    return Wrong("the zero point", zero, int8 ? "128 for int8" : "0 or 8 for int4");
  }
  return absl::OkStatus();
}

absl::StatusOr<CpuMatrix::Shape> ShapeOf(const Header& header) {
  const auto [rows, cols, group, zero_point, storage, f16, offsets] = header;
  if (rows < 1 || rows > kMaxSide) return Wrong("the rows", rows, "1 to 2^30");
  if (cols < 1 || cols > kMaxSide) return Wrong("the columns", cols, "1 to 2^30");
  if (storage < 0 || storage > static_cast<int32_t>(Storage::kF32)) {
    return Wrong("the storage", storage, "0 to 3");
  }
  if (f16 != 0 && f16 != 1) return Wrong("'scales are f16'", f16, "0 or 1");
  if (offsets != 0 && offsets != 1) return Wrong("'has offsets'", offsets, "0 or 1");
  const CpuMatrix::Shape shape{.rows = rows,
                               .cols = cols,
                               .group = group,
                               .zero_point = zero_point,
                               .storage = static_cast<Storage>(storage),
                               .scales_are_f16 = f16 == 1,
                               .has_offsets = offsets == 1};
  const bool is_int = shape.storage == Storage::kInt4 || shape.storage == Storage::kInt8;
  const absl::Status status = is_int ? CheckInt(shape) : CheckFloat(shape);
  if (!status.ok()) return status;
  return shape;
}

}  // namespace

PackedBytes BytesOf(const PackedMatrix& matrix) {
  const auto& packed = static_cast<const CpuMatrix&>(matrix);
  const Header header = HeaderOf(packed.shape());
  PackedBytes bytes;
  bytes.header.assign(reinterpret_cast<const char*>(header.data()), sizeof(header));
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
    return Wrong("the size of the header", static_cast<int64_t>(bytes.header.size()), "28");
  }
  std::memcpy(header.data(), bytes.header.data(), sizeof(header));
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

#include "kernels/cuda/device_memory.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cuda/stored_matrix.h"

namespace nibble::cuda {
namespace {

using quant::Format;

StoredMatrix Bytes(const PlannedMatrix& matrix, int32_t group, bool offsets, bool f32_scales) {
  StoredMatrix stored;
  stored.storage = Storage::kTiled;
  TiledLayout& layout = stored.tiled;
  layout = {.rows = matrix.rows, .cols = matrix.cols, .codes = TiledCodes::kInt8};
  layout.group = TileCols(layout.codes);
  layout.offsets = offsets;
  const bool by_row = group <= 0 || group == matrix.cols;
  if (by_row && !offsets) {
    layout.scales = TiledScales::kRow;
  } else if (matrix.format == Format::kFp8) {
    layout.codes = TiledCodes::kE4m3;
    layout.scales = TiledScales::kBlock;
  } else {
    while (!by_row && group % layout.group != 0) layout.group /= 2;
    layout.scales = offsets || f32_scales ? TiledScales::kF32 : TiledScales::kF16;
  }
  return stored;
}

StoredMatrix Nibbles(const PlannedMatrix& matrix, int32_t group, bool offsets, bool f32_scales) {
  StoredMatrix stored;
  stored.storage = Storage::kTiled;
  stored.tiled = {.rows = matrix.rows, .cols = matrix.cols};
  for (const int32_t whole : {32, 64, 128}) {
    if (group % whole == 0) stored.tiled.group = whole;
  }
  stored.tiled.scales = f32_scales ? TiledScales::kF32 : TiledScales::kF16;
  stored.tiled.offsets = offsets;
  return stored;
}

// As PackMatrix (pack_matrix.h) would choose.
StoredMatrix StorageOf(const PlannedMatrix& matrix) {
  StoredMatrix stored;
  switch (matrix.format) {
    case Format::kInt4Affine:
    case Format::kLut4:
      return matrix.group % 32 == 0
                 ? Nibbles(matrix, matrix.group, matrix.offsets && !matrix.zero_point,
                           matrix.f32_scales)
                 : Bytes(matrix, matrix.group, matrix.offsets, matrix.f32_scales);
    case Format::kQ4K:
      return Nibbles(matrix, quant::kQ4KSubBlock, /*offsets=*/true, /*f32_scales=*/true);
    case Format::kQ5K:
      return Bytes(matrix, quant::kQ4KSubBlock, /*offsets=*/true, /*f32_scales=*/true);
    case Format::kQ6K:
      return Bytes(matrix, quant::kQ6KSubBlock, /*offsets=*/false, /*f32_scales=*/true);
    case Format::kInt5Affine:
    case Format::kInt8:
      return Bytes(matrix, matrix.group, matrix.offsets, matrix.f32_scales);
    case Format::kFp8:
      return Bytes(matrix, matrix.group, /*offsets=*/false, matrix.f32_scales);
    case Format::kBf16:
      stored.storage = Storage::kBf16;
      return stored;
    case Format::kF32:
      break;
  }
  stored.storage = matrix.half_values ? Storage::kF16 : Storage::kF32;
  return stored;
}

}  // namespace

int64_t PlannedBytes(const PlannedMatrix& matrix) {
  StoredMatrix stored = StorageOf(matrix);
  stored.rows = matrix.rows;
  stored.cols = matrix.cols;
  return StoredBytes(stored);
}

absl::StatusOr<DeviceBuffer> DeviceMemory::Allocate(int64_t size_bytes, absl::string_view what) {
  void* const memory = device_.Allocate(size_bytes);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("memory of ", device_.name(), " for ", what, ": ", size_bytes,
                     " bytes needed, ", device_.free_bytes(), " free of ",
                     device_.properties().memory_bytes, " (held: ", Held(), ")"));
  }
  std::string key(what);
  Add(key, size_bytes);
  return DeviceBuffer(memory, size_bytes, [this, key = std::move(key), size_bytes](void* p) {
    device_.Free(p);
    Add(key, -size_bytes);
  });
}

absl::Status DeviceMemory::CheckPlan(const MemoryPlan& plan, int64_t graphs) const {
  int64_t weights = plan.weights;
  for (const PlannedMatrix& matrix : plan.matrices) weights += PlannedBytes(matrix);
  const int64_t needed = weights + plan.kv_cache + plan.activations + graphs;
  const int64_t free_bytes = device_.free_bytes();
  if (needed <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "memory of ", device_.name(), " (", device_.properties().name, "): weights ", weights,
      " + KV cache ", plan.kv_cache, " + activations ", plan.activations, " + graphs ", graphs,
      " = ", needed, " bytes needed, ", free_bytes, " free of ", device_.properties().memory_bytes,
      " (held: ", Held(), "); give the cache less (--kv-cache-mib) or take a smaller model"));
}

void DeviceMemory::Add(const std::string& what, int64_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  bytes_[what] += bytes;
}

std::string DeviceMemory::Held() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> parts;
  for (const auto& [what, bytes] : bytes_) {
    if (bytes > 0) parts.push_back(absl::StrCat(what, " ", bytes));
  }
  return parts.empty() ? "nothing" : absl::StrJoin(parts, ", ");
}

}  // namespace nibble::cuda

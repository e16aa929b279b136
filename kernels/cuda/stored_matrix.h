// A weight in device memory, as the kernels find it. 4-bit codes lie as w4_layout.h says; all other
// formats as rows of codes without gaps, then scales, then (where there are any) offsets, both f32
// and each at a multiple of 16 bytes:
//
//   storage  codes       value of element (n, k), s and m those of its group
//   kW4      tiles       scale * (code - zero) + offset, or scale * table[code]
//   kInt8    s8          s * code + m
//   kE4m3    fp8         s * code
//   kE5m2    fp8         s * code
//   kF16     f16         code
//   kBf16    bf16        code
//   kF32     f32         code
#pragma once

#include <cstdint>

#include "kernels/cuda/w4_layout.h"

namespace nibble::cuda {

enum class Storage : uint8_t { kW4, kInt8, kE4m3, kE5m2, kF16, kBf16, kF32 };

struct StoredMatrix {
  Storage storage = Storage::kF32;
  int32_t rows = 0, cols = 0;      // cols a multiple of 8
  int32_t group = 0;               // columns of a scale, a multiple of 8; kInt8 and fp8
  int32_t row_group = 1;           // rows of a scale; fp8
  bool offsets = false;            // kInt8
  W4Layout w4;                     // kW4
  const uint8_t* bytes = nullptr;  // StoredBytes, 16-byte aligned
};

constexpr int64_t RoundUp16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

constexpr int32_t CodeBytes(Storage storage) {
  if (storage == Storage::kF32) return 4;
  return storage == Storage::kF16 || storage == Storage::kBf16 ? 2 : 1;
}
constexpr bool HasScales(Storage storage) {
  return storage == Storage::kInt8 || storage == Storage::kE4m3 || storage == Storage::kE5m2;
}

// Where the scales begin, and how many there are (of the offsets as many); not for kW4.
constexpr int64_t ScalesAt(const StoredMatrix& m) {
  return RoundUp16(int64_t{m.rows} * m.cols * CodeBytes(m.storage));
}
constexpr int32_t GroupsOfRow(const StoredMatrix& m) { return (m.cols + m.group - 1) / m.group; }
constexpr int64_t NumScales(const StoredMatrix& m) {
  if (!HasScales(m.storage)) return 0;
  return int64_t{(m.rows + m.row_group - 1) / m.row_group} * GroupsOfRow(m);
}
constexpr int64_t OffsetsAt(const StoredMatrix& m) {
  return ScalesAt(m) + RoundUp16(NumScales(m) * 4);
}

constexpr int64_t StoredBytes(const StoredMatrix& m) {
  if (m.storage == Storage::kW4) return W4Bytes(m.w4);
  return OffsetsAt(m) + (m.offsets ? RoundUp16(NumScales(m) * 4) : 0);
}

}  // namespace nibble::cuda

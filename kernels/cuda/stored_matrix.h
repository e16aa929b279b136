// A weight in device memory, as the kernels find it:
//
//   storage  codes
//   kTiled   4-bit or 8-bit ones with their scales, as tiled_layout.h says
//   kCodes   rows of 8-bit codes without gaps, for the GEMM of codes (gemm.h), then at a multiple
//   of
//            16 bytes f32 scales: [rows], or of blocks [BlocksOf(rows), BlockScaleStride(cols)]
//   kF16     f16 rows without gaps
//   kBf16    bf16 rows
//   kF32     f32 rows
#pragma once

#include <cstdint>

#include "kernels/cuda/codes_shape.h"
#include "kernels/cuda/tiled_layout.h"

namespace nibble::cuda {

enum class Storage : uint8_t { kTiled, kF16, kBf16, kF32, kCodes };

struct StoredMatrix {
  Storage storage = Storage::kF32;
  int32_t rows = 0, cols = 0;                       // cols a multiple of 8
  TiledLayout tiled;                                // kTiled
  CodesShape::Kind kind = CodesShape::Kind::kInt8;  // kCodes
  const uint8_t* bytes = nullptr;                   // StoredBytes, 16-byte aligned
};

constexpr int64_t RoundUp16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Where the scales of kCodes begin.
constexpr int64_t CodeScalesAt(const StoredMatrix& m) {
  return RoundUp16(int64_t{m.rows} * m.cols);
}

constexpr int64_t StoredBytes(const StoredMatrix& m) {
  if (m.storage == Storage::kTiled) return TiledBytes(m.tiled);
  if (m.storage == Storage::kCodes) {
    const int64_t scales =
        HasBlocks(m.kind) ? int64_t{BlocksOf(m.rows)} * BlockScaleStride(m.cols) : int64_t{m.rows};
    return CodeScalesAt(m) + RoundUp16(scales * 4);
  }
  return RoundUp16(int64_t{m.rows} * m.cols * (m.storage == Storage::kF32 ? 4 : 2));
}

}  // namespace nibble::cuda

// Packs canonical matrices of 4-bit and 8-bit codes for the tiled linear.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/tiled_layout.h"
#include "kernels/quant/matrix.h"

namespace nibble::cuda {

struct TiledMatrix {
  TiledLayout layout;
  std::vector<uint8_t> bytes;  // TiledBytes(layout), to be copied to the device as they are
};

// kInt4Affine and kLut4 in groups of multiples of 32; kInt5Affine and kInt8; kFp8. Exact: codes are
// kept, scales of groups are f16 where every one of them is exactly an f16, otherwise f32; with
// offsets 8-bit codes always have f32. Offsets that all are the same whole multiple -zero of their
// scale (Q4_0's -8) become the layout's `zero`. Groups wider than a tile repeat their scale; a
// scale a row (or of a whole fp8 tensor) is stored once a row.
// INVALID_ARGUMENT for a matrix that quant::Validate refuses; UNIMPLEMENTED for another format or
// group.
absl::StatusOr<TiledMatrix> PackTiles(const quant::Matrix& matrix);

}  // namespace nibble::cuda

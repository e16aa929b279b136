// Packs canonical 4-bit matrices (kInt4Affine, kLut4) for the W4 kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/w4_layout.h"
#include "kernels/quant/matrix.h"

namespace nibble::cuda {

struct W4Packed {
  W4Layout layout;
  std::vector<uint8_t> bytes;  // W4Bytes(layout), to be copied to the device as they are
};

// Exact: codes are kept, scales are f16 where every one of them is exactly an f16, otherwise f32.
// Offsets that all are the same whole multiple -zero of their scale (Q4_0's -8) become the layout's
// `zero`. Groups wider than 128 columns repeat their scale. INVALID_ARGUMENT for a matrix that
// quant::Validate refuses; UNIMPLEMENTED for another format and for groups that are no multiple
// of 32.
absl::StatusOr<W4Packed> PackW4(const quant::Matrix& matrix);

}  // namespace nibble::cuda

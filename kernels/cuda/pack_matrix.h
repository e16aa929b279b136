// From canonical matrices (kernels/quant/matrix.h) to what stored_matrix.h describes, on the host.
//
//   canonical                       stored as
//   int4-affine, lut4 in groups of  kTiled, exact
//     multiples of 32; int5-affine,
//     int8, fp8
//   int4-affine, other groups       kTiled as int8, exact
//   q4_k                            kTiled as int4 with f32 scales and offsets, a * s and b * m (6
//                                   bits a weight)
//   q5_k, q6_k                      the same as int8 (10 bits)
//   bf16                            kBf16
//   f32                             kF16 or kBf16 where every value is exactly one, else kF32
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cuda/stored_matrix.h"
#include "kernels/quant/matrix.h"

namespace nibble::cuda {

struct HostMatrix {
  StoredMatrix stored;         // without `bytes`
  std::vector<uint8_t> bytes;  // StoredBytes(stored), to be copied to the device as they are
};

// Whether the device multiplies codes of that shape (Gemm::Multiplies).
using Multiplies = std::function<bool(const CodesShape& shape)>;

// With `multiplies`, activations may be quantized: int8 by row and fp8 then are stored as kCodes
// where it says yes. Without it, and for all else, as the table says.
// INVALID_ARGUMENT for a matrix that quant::Validate refuses; UNIMPLEMENTED for lut4 in groups that
// are no multiple of 32 and for columns that are no multiple of 8.
absl::StatusOr<HostMatrix> PackMatrix(const quant::Matrix& matrix,
                                      const Multiplies& multiplies = nullptr);

// Pieces of one matrix's rows, in any order, as the whole. INVALID_ARGUMENT when they do not fill
// it or differ in format, columns or group.
struct MatrixPiece {
  int32_t first_row = 0;
  quant::Matrix matrix;
};
absl::StatusOr<quant::Matrix> JoinPieces(int32_t rows, std::vector<MatrixPiece> pieces);

// What a StoredMatrix says of itself, as bytes and back, whatever the bytes claim: DATA_LOSS names
// the first number that no packed matrix has.
std::string HeaderOf(const StoredMatrix& stored);
absl::StatusOr<StoredMatrix> StoredOf(absl::string_view header);

}  // namespace nibble::cuda

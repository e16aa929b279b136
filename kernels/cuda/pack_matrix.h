// From canonical matrices (kernels/quant/matrix.h) to what stored_matrix.h describes, on the host.
//
//   canonical                       stored as
//   int4-affine, lut4 in groups of  kW4, exact
//     multiples of 32; q4_k         q4_k with f32 scales and offsets, a * s and b * m (6 bits a
//     weight)
//   int4-affine, other groups;      kInt8, exact: a byte a code, f32 scales
//     int5-affine, q5_k, q6_k, int8
//   fp8                             kE4m3, kE5m2
//   bf16                            kBf16
//   f32                             kF16 or kBf16 where every value is exactly one, else kF32
#pragma once

#include <cstdint>
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

// INVALID_ARGUMENT for a matrix that quant::Validate refuses; UNIMPLEMENTED for lut4 in groups that
// are no multiple of 32 and for columns that are no multiple of 8.
absl::StatusOr<HostMatrix> PackMatrix(const quant::Matrix& matrix);

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

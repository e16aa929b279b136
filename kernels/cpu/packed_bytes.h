// A CpuMatrix as the bytes of Backend::ToBytes, and back, whatever the bytes claim.
//
// The header is seven i32 in the machine's byte order, which the file around it has to record:
//   rows, cols, group, zero point, storage, scale type, has offsets (0 or 1)
// and then the table of kLut4, f32 [16].
// The sections are CpuMatrix's own: codes, scales.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/weight_memory.h"

namespace nibble::cpu {

// REQUIRES: a matrix of this backend.
PackedBytes BytesOf(const PackedMatrix& matrix);

// DATA_LOSS names the first number that no packed matrix has, or the section of another size;
// INVALID_ARGUMENT a section that is not 64-byte aligned. Views of the sections, which `owner`
// keeps; a copy of them where that is null, cut from `memory` (weight_memory.h).
absl::StatusOr<std::unique_ptr<PackedMatrix>> MatrixOf(const PackedBytes& bytes,
                                                       const std::shared_ptr<const void>& owner,
                                                       WeightMemory* memory);

}  // namespace nibble::cpu

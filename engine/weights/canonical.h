// From a GGUF tensor's blocks to a canonical matrix. Codes are moved, scales multiplied out; values
// stay the same.
//
//   file type          canonical       scale, offset of a group
//   Q4_0               int4-affine g32 d, -8 d
//   Q4_1               int4-affine g32 d, m
//   Q4_K               q4_k            d, -dmin; sub-scales sc, m
//   IQ4_NL             lut4 g32        d
//   MXFP4              lut4 g32        2^(e - 128), the table doubled
//   Q5_0               int5-affine g32 d, -16 d
//   Q5_1               int5-affine g32 d, m
//   Q5_K               q5_k            d, -dmin; sub-scales sc, m
//   Q2_K               int4-affine g16 d sc, -dmin m (the code has 2 bits)
//   Q3_K               q6_k            d; sub-scales sc - 32 (the code has 3 bits)
//   IQ4_XS             lut4 g32        d (ls - 32), in f32
//   NVFP4              lut4 g16        e4m3 / 2, the table doubled
//   Q8_0               int8 g32        d
//   Q6_K               q6_k            d; sub-scales sc
//   F16                f32             (not every f16 is a bf16)
//   BF16, F32          the same
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/weights/gguf_file.h"
#include "kernels/quant/matrix.h"

namespace nibble {

struct CanonicalForm {
  quant::Format format = quant::Format::kF32;
  int32_t group = 0;  // 0: no scales
  bool offsets = false;
  int scale_bytes = 4;      // of a scale, and of an offset, by construction: 2 is f16, 1 e8m0
  bool zero_point = false;  // the offsets are one multiple of the scales: a device keeps none
  // Codes or scales are wider than in the file: there is no kernel for the file's own.
  bool wider = false;
};

// Absent for types that are not readable.
std::optional<CanonicalForm> CanonicalFormOf(GgmlType type);

std::string CanonicalName(const CanonicalForm& form);  // "int8 g16", "f32"

// Bytes of codes, scales and offsets on a device, whose scales are as narrow as is exact.
int64_t CanonicalBytes(const CanonicalForm& form, int64_t num_elements);

// The matrix [rows, cols] whose blocks are `bytes`. DATA_LOSS as CheckFinite. About 1 ns an
// element; takes memory for the matrix only. REQUIRES a readable type and `bytes` of exactly that
// many elements.
absl::StatusOr<quant::Matrix> ToCanonical(GgmlType type, absl::Span<const uint8_t> bytes,
                                          int32_t rows, int32_t cols);

}  // namespace nibble

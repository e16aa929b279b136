// The canonical weight formats: all that a backend ever sees of a weight file. The loader (and the
// quantizer) fill a `Matrix` on the host; `Backend::Pack` turns it into the device's private layout,
// once, at load, after which it is freed.
//
// A matrix is [rows, cols] = [out features, in features]; y = x W^T. Elements of a row are contiguous.
// Groups run along a row: group g of a row covers columns g*group .. (g+1)*group - 1.
//
//   format      codes                              scales                      value of element (n, k)
//   kInt4Affine u4, two a byte, even k in the low  [rows, cols/group]          s * q + m
//               nibble: [rows, cols/2]             offsets the same, or empty
//   kLut4       u4 as above                        [rows, cols/group]          s * table[q]
//   kInt8       s8 [rows, cols]                    [rows, cols/group]          s * q + m
//                                                  offsets the same, or empty
//   kFp8        e4m3fn [rows, cols]                one, [rows], or             s * e4m3(q)
//                                                  [rows/128, cols/128]
//   kBf16       u16 bit patterns [rows, cols]      -                           bf16(q)
//   kF32        f32 [rows, cols]                   -                           q
//
// Scales and offsets are f32 here, so that s * q + m reproduces every file format's formula bit for bit
// (products of an f16 scale, a 6-bit factor and an 8-bit code are exact in f32). A backend may store them
// narrower where that is exact (`ScalesFitF16`).
// Without offsets the int formats are symmetric: Q4_0's (q - 8) is stored as offset -8 * s.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nibble::quant {

enum class Format : uint8_t { kInt4Affine, kLut4, kInt8, kFp8, kBf16, kF32 };

absl::string_view FormatName(Format format);  // "int4-affine", "lut4", "int8", "fp8", "bf16", "f32"

struct Matrix {
  Format format = Format::kF32;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t group = 0;           // columns a scale covers; cols for one scale a row; 0 for kBf16, kF32
  std::vector<uint8_t> codes;  // layout by format, above
  std::vector<float> scales;
  std::vector<float> offsets;  // empty: all zero
  float table[16] = {};        // kLut4 only
};

// Bytes of codes, scales and offsets that `matrix` must have; INVALID_ARGUMENT names the first that differs.
// REQUIRES of every consumer. Also: group divides cols, and is a multiple of 16 (or equals cols).
absl::Status Validate(const Matrix& matrix);

// True when every scale and offset is exactly an f16.
bool ScalesFitF16(const Matrix& matrix);

// out[cols] = row `n` of the matrix in f32: the definition the table above states. Slow; the oracle of tests.
void DequantizeRow(const Matrix& matrix, int32_t n, float* out);

}  // namespace nibble::quant

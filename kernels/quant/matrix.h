// The canonical weight formats: all that a backend ever sees of a weight file. The loader (and the
// quantizer) fill a `Matrix` on the host; `Backend::Pack` turns it into the device's private
// layout, once, at load, after which it is freed.
//
// A matrix is [rows, cols] = [out features, in features]; y = x W^T. Elements of a row are
// contiguous. Groups run along a row: group g of a row covers columns g*group .. (g+1)*group - 1.
//
//   format      codes                         scales                       value of element (n, k)
//   kInt4Affine u4, two a byte, even k in     [rows, cols/group]           s * q + m
//               the low nibble: [rows, cols/2] offsets the same, or empty
//   kInt5Affine u5, one a byte [rows, cols]   the same                     s * q + m
//   kLut4       u4 as above                   [rows, cols/group]           s * table[q]
//   kInt8       s8 [rows, cols]               [rows, cols/group]           s * q + m
//                                             offsets the same, or empty
//   kQ4K        u4 as above                   [rows, cols/256], with       (s * a) * q + m * b
//                                             offsets; sub_scales u8
//                                             [rows, cols/32, 2]: a, b, each 0 .. 63
//   kQ5K        u5, one a byte [rows, cols]   the same as kQ4K             (s * a) * q + m * b
//   kQ6K        s8 [rows, cols], -32 .. 31    [rows, cols/256]; sub_scales (s * a) * q
//                                             s8 [rows, cols/16]: a
//   kFp8        e4m3fn or e5m2 [rows, cols]   [rows/row_group, cols/group] s * fp8(q)
//   kBf16       u16 bit patterns [rows, cols] -                            bf16(q)
//   kF32        f32 [rows, cols]              -                            q
//
// kQ4K, kQ5K and kQ6K are GGML's k-quants, field by field: s is d, m is -dmin, both f16. An fp8
// scale covers the tensor (row_group = rows, group = cols), a row (1, cols) or a block (128, 128),
// whose last ones may be partial.
//
// Scales and offsets are f32 here, so that s * q + m reproduces every file format's formula bit for
// bit (products of an f16 scale, a 6-bit factor and an 8-bit code are exact in f32). A backend may
// store them narrower where that is exact (`ScalesFitF16`, `ScalesFitE8m0`).
// Without offsets the int formats are symmetric: Q4_0's (q - 8) is stored as offset -8 * s.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace nibble::quant {

enum class Format : uint8_t {
  kInt4Affine,
  kInt5Affine,
  kLut4,
  kInt8,
  kQ4K,
  kQ5K,
  kQ6K,
  kFp8,
  kBf16,
  kF32
};
enum class Fp8 : uint8_t { kE4m3, kE5m2 };

inline constexpr int32_t kSuperBlock = 256;  // columns of a k-quant's scale
inline constexpr int32_t kQ4KSubBlock = 32;  // columns of one of its sub-scales, Q5_K's too
inline constexpr int32_t kQ6KSubBlock = 16;
inline constexpr int32_t kFp8Block = 128;  // rows, and columns, of an fp8 block scale

// "int4-affine", "int5-affine", "lut4", "int8", "q4_k", "q5_k", "q6_k", "fp8", "bf16", "f32"
absl::string_view FormatName(Format format);

struct Matrix {
  Format format = Format::kF32;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t group = 0;           // columns a scale covers; cols for one a row; 0 for kBf16, kF32
  int32_t row_group = 1;       // rows a scale covers: kFp8 only
  Fp8 fp8 = Fp8::kE4m3;        // kFp8 only
  std::vector<uint8_t> codes;  // layout by format, above
  std::vector<float> scales;
  std::vector<float> offsets;       // empty: all zero
  std::vector<uint8_t> sub_scales;  // k-quants only
  float table[16] = {};             // kLut4 only
};

// Sizes of codes, scales, offsets and sub_scales that `matrix` must have, and what the k-quants and
// fp8 promise of their values (codes and sub-scales in range, scales that are f16s, no NaN or
// infinite code); INVALID_ARGUMENT names the first that differs. REQUIRES of every consumer. Also:
// group divides cols but for fp8 blocks, and is a multiple of 16 (or equals cols).
absl::Status Validate(const Matrix& matrix);

// True when every scale and offset is exactly an f16.
bool ScalesFitF16(const Matrix& matrix);

// True when every scale is a power of two that a byte of exponent holds, 2^-126 to 2^127, and there
// are no offsets (MXFP4).
bool ScalesFitE8m0(const Matrix& matrix);

// out[cols] = row `n` of the matrix in f32: the definition the table above states. Slow; the oracle
// of tests.
void DequantizeRow(const Matrix& matrix, int32_t n, float* out);

}  // namespace nibble::quant

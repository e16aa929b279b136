// How a matrix is quantized, whatever method picks the codes: the grid, and the elements that share
// a scale. Schemes have names:
//
//   int4-sym-g128   int8-sym-channel   int8-sym-tensor   symmetric: codes -7 .. 7, s = max|w| / 7
//   int4-full-g64                                        the full range: codes -8 .. 7, s = max
//   / 7.5 int4-asym-g128                                       codes 0 .. 15 and a zero point
//   nf4-b64  nf4-b64-dq  fp4-b64                         4-bit tables over block absmax; -dq double
//   e4m3-channel  e4m3-tensor  e4m3-block  e5m2-...      fp8; block: 128 x 128
//
// int2 to int8. `-mse` at the end of any: the range of every group is the one that costs the least
// squared error, not the whole one.
//
// The full range: Q4_0's and GPTQ's choice. The largest magnitude loses half a step at most, and no
// code is wasted; the symmetric grid never uses -8 (docs/quantization.md).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::quantize {

enum class GridKind : uint8_t { kSymmetric, kFullRange, kAsymmetric, kNf4, kFp4, kE4m3, kE5m2 };

// What shares a scale: the matrix, a row, `group` columns of a row, or 128 x 128 elements.
enum class Granularity : uint8_t { kTensor, kChannel, kGroup, kBlock };

enum class RangeChoice : uint8_t { kWhole, kLeastError };

inline constexpr int32_t kFp8BlockSize = 128;
// Double quantization (arXiv 2305.14314, with bitsandbytes' numbers): block maxima, less their
// mean, as 8-bit codes in blocks of this many.
inline constexpr int32_t kNestedBlock = 256;

struct Scheme {
  GridKind grid = GridKind::kSymmetric;
  int bits = 4;  // of a code; 4 for the tables, 8 for the floats
  Granularity granularity = Granularity::kGroup;
  int32_t group = 128;  // kGroup only
  RangeChoice range = RangeChoice::kWhole;
  bool f16_scales = true;  // otherwise f32; integer grids below 8 bits have f16 ones
  bool double_quantized = false;

  bool operator==(const Scheme&) const = default;
};

// INVALID_ARGUMENT quotes what it does not know and says what there is.
absl::StatusOr<Scheme> ParseScheme(absl::string_view name);
std::string SchemeName(const Scheme& scheme);

// INVALID_ARGUMENT when the scheme cannot hold a matrix of this shape: groups must divide a row.
absl::Status CheckShape(const Scheme& scheme, int32_t rows, int32_t cols);

// Columns, and rows, that share a scale in a matrix of this shape.
struct Tile {
  int32_t rows = 1, cols = 1;
};
Tile TileOf(const Scheme& scheme, int32_t rows, int32_t cols);

// Codes, scales and zero points, over the elements: 4.125 for int4-sym-g128, 4.156 for its
// asymmetric twin, 4.5 for nf4-b64, 4.127 with double quantization.
double BitsPerWeight(const Scheme& scheme, int32_t rows, int32_t cols);

}  // namespace nibble::quantize

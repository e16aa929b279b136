// What a method makes of a matrix: codes, and the parameters of each tile of them.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/quantize/methods/dense.h"
#include "engine/quantize/methods/grid.h"
#include "engine/quantize/methods/scheme.h"
#include "kernels/quant/matrix.h"

namespace nibble::quantize {

struct QuantizedWeight {
  Scheme scheme;
  int32_t rows = 0, cols = 0;
  std::vector<int16_t> codes;       // [rows, cols], as Grid has them
  std::vector<GroupParams> params;  // [tiles down, tiles across]
  // Double quantization: the blocks' maxima as they were before it, as many as params. A layout
  // that keeps rows in another order quantizes them again in its own. Otherwise empty.
  std::vector<float> maxima;
  // GPTQ's g_idx: the tile across that column k belongs to. Empty: k / tile columns.
  std::vector<int32_t> group_of_column;  // [cols]

  // The parameters of row n's tiles, and which of them is column k's.
  absl::Span<const GroupParams> RowParams(int32_t n) const;
  int32_t GroupOf(int32_t k) const {
    return group_of_column.empty() ? k / tile.cols : group_of_column[k];
  }
  Tile tile;  // TileOf the scheme and shape
};

// An empty one, of the scheme's shape. REQUIRES CheckShape.
QuantizedWeight MakeQuantizedWeight(const Scheme& scheme, int32_t rows, int32_t cols);

MatrixF Dequantize(const QuantizedWeight& weight);

// The canonical matrix (kernels/quant/matrix.h) with the same values: int codes below 5 bits as
// int4-affine, the others as int8, tables as lut4, floats as fp8. UNIMPLEMENTED for columns that
// are not in group order, which no canonical format holds.
absl::StatusOr<quant::Matrix> ToCanonical(const QuantizedWeight& weight);

// Signal to quantization noise, 10 log10(sum w^2 / sum (w - v)^2), dB; infinite where v is w.
double SignalToNoise(const MatrixF& weight, const MatrixF& values);

}  // namespace nibble::quantize

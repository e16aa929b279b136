#include "engine/quantize/methods/quantized_weight.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace nibble::quantize {
namespace {

// Two codes a byte, even columns in the low nibble.
void PackNibbles(const QuantizedWeight& weight, int32_t shift, quant::Matrix& matrix) {
  matrix.codes.resize(weight.codes.size() / 2);
  for (size_t i = 0; i < matrix.codes.size(); ++i) {
    const int low = weight.codes[2 * i] + shift, high = weight.codes[2 * i + 1] + shift;
    matrix.codes[i] = static_cast<uint8_t>(low | high << 4);
  }
}

// Scales and offsets one a group of every row: those of larger tiles are repeated.
void SpreadScales(const QuantizedWeight& weight, int32_t shift, quant::Matrix& matrix) {
  const bool offsets = shift != 0 || weight.scheme.grid == GridKind::kAsymmetric;
  for (int32_t n = 0; n < weight.rows; ++n) {
    for (const GroupParams& params : weight.RowParams(n)) {
      matrix.scales.push_back(params.scale);
      if (offsets) {
        matrix.offsets.push_back(params.scale * static_cast<float>(-params.zero - shift));
      }
    }
  }
}

void FillFp8(const QuantizedWeight& weight, Tile tile, quant::Matrix& matrix) {
  matrix.format = quant::Format::kFp8;
  matrix.fp8 = weight.scheme.grid == GridKind::kE4m3 ? quant::Fp8::kE4m3 : quant::Fp8::kE5m2;
  matrix.row_group = tile.rows;
  matrix.codes.assign(weight.codes.begin(), weight.codes.end());
  for (const GroupParams& params : weight.params) matrix.scales.push_back(params.scale);
}

}  // namespace

absl::Span<const GroupParams> QuantizedWeight::RowParams(int32_t n) const {
  const size_t across = (cols + tile.cols - 1) / tile.cols;
  return absl::MakeConstSpan(params).subspan(n / tile.rows * across, across);
}

QuantizedWeight MakeQuantizedWeight(const Scheme& scheme, int32_t rows, int32_t cols) {
  NIBBLE_CHECK(CheckShape(scheme, rows, cols).ok());
  QuantizedWeight weight;
  weight.scheme = scheme;
  weight.rows = rows;
  weight.cols = cols;
  weight.codes.resize(static_cast<size_t>(rows) * cols);
  weight.tile = TileOf(scheme, rows, cols);
  const size_t down = (rows + weight.tile.rows - 1) / weight.tile.rows;
  const size_t across = (cols + weight.tile.cols - 1) / weight.tile.cols;
  weight.params.resize(down * across);
  return weight;
}

MatrixF Dequantize(const QuantizedWeight& weight) {
  const Grid grid(weight.scheme);
  MatrixF values(weight.rows, weight.cols);
  const int16_t* code = weight.codes.data();
  for (int32_t n = 0; n < weight.rows; ++n) {
    const absl::Span<const GroupParams> params = weight.RowParams(n);
    for (int32_t k = 0; k < weight.cols; ++k) {
      values(n, k) = grid.Value(*code++, params[weight.GroupOf(k)]);
    }
  }
  return values;
}

absl::StatusOr<quant::Matrix> ToCanonical(const QuantizedWeight& weight) {
  if (!weight.group_of_column.empty()) {
    return absl::UnimplementedError(
        "columns in another order than their groups (g_idx) have no canonical format; quantize "
        "with static groups");
  }
  const Tile tile = weight.tile;
  quant::Matrix matrix;
  matrix.rows = weight.rows;
  matrix.cols = weight.cols;
  matrix.group = tile.cols;
  const GridKind grid = weight.scheme.grid;
  if (grid == GridKind::kE4m3 || grid == GridKind::kE5m2) {
    FillFp8(weight, tile, matrix);
  } else if (grid == GridKind::kNf4 || grid == GridKind::kFp4) {
    matrix.format = quant::Format::kLut4;
    std::copy_n(grid == GridKind::kNf4 ? kNf4Table : kFp4Table, 16, matrix.table);
    PackNibbles(weight, 0, matrix);
    SpreadScales(weight, 0, matrix);
  } else if (weight.scheme.bits <= 4) {
    matrix.format = quant::Format::kInt4Affine;
    const int32_t shift = grid == GridKind::kAsymmetric ? 0 : 8;  // symmetric codes start at -8
    PackNibbles(weight, shift, matrix);
    SpreadScales(weight, shift, matrix);
  } else {
    matrix.format = quant::Format::kInt8;
    const int32_t shift = grid == GridKind::kAsymmetric ? -128 : 0;  // unsigned codes to signed
    for (int16_t code : weight.codes) {
      matrix.codes.push_back(static_cast<uint8_t>(static_cast<int8_t>(code + shift)));
    }
    SpreadScales(weight, shift, matrix);
  }
  return matrix;
}

double SignalToNoise(const MatrixF& weight, const MatrixF& values) {
  const double signal = weight.cast<double>().squaredNorm();
  const double noise = (weight - values).cast<double>().squaredNorm();
  if (noise == 0) return std::numeric_limits<double>::infinity();  // of zeros, too
  return 10 * std::log10(signal / noise);
}

}  // namespace nibble::quantize

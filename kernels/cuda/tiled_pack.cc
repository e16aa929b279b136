#include "kernels/cuda/tiled_pack.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/half.h"

namespace nibble::cuda {
namespace {

bool FitF16(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(),
                     [](float x) { return F16ToF32(F32ToF16(x)) == x; });
}

// The integer z with offset == -z * scale everywhere.
std::optional<int32_t> CommonZero(const quant::Matrix& matrix) {
  if (matrix.offsets.empty()) return 0;
  for (int32_t zero = 0; zero < 16; ++zero) {
    size_t i = 0;
    while (i < matrix.scales.size() &&
           matrix.offsets[i] == -static_cast<float>(zero) * matrix.scales[i])
      ++i;
    if (i == matrix.scales.size()) return zero;
  }
  return std::nullopt;
}

TiledLayout LayoutOf4Bit(const quant::Matrix& matrix) {
  TiledLayout layout{.rows = matrix.rows, .cols = matrix.cols};
  for (const int32_t group : {32, 64, 128}) {
    if (matrix.group % group == 0) layout.group = group;
  }
  if (matrix.format == quant::Format::kLut4) {
    layout.codes = TiledCodes::kLut4;
    std::copy(std::begin(matrix.table), std::end(matrix.table), std::begin(layout.table));
  } else {
    const std::optional<int32_t> zero = CommonZero(matrix);
    layout.offsets = !zero.has_value();
    layout.zero = zero.value_or(0);
  }
  const bool fit = FitF16(matrix.scales) && (!layout.offsets || FitF16(matrix.offsets));
  layout.scales = fit ? TiledScales::kF16 : TiledScales::kF32;
  return layout;
}

TiledLayout LayoutOf8Bit(const quant::Matrix& matrix) {
  TiledLayout layout{.rows = matrix.rows, .cols = matrix.cols};
  const bool is_fp8 = matrix.format == quant::Format::kFp8;
  const auto fp8 = matrix.fp8 == quant::Fp8::kE4m3 ? TiledCodes::kE4m3 : TiledCodes::kE5m2;
  layout.codes = is_fp8 ? fp8 : TiledCodes::kInt8;
  layout.offsets = !matrix.offsets.empty();
  layout.group = TileCols(layout.codes);
  if (matrix.group == matrix.cols && !layout.offsets) {
    layout.scales = TiledScales::kRow;
  } else if (is_fp8) {
    layout.scales = TiledScales::kBlock;
  } else {
    while (matrix.group % layout.group != 0 && matrix.group != matrix.cols) layout.group /= 2;
    const bool fit = !layout.offsets && FitF16(matrix.scales);
    layout.scales = fit ? TiledScales::kF16 : TiledScales::kF32;
  }
  return layout;
}

void PutValue(const TiledLayout& layout, float value, int32_t index, uint8_t* values) {
  const uint16_t half = F32ToF16(value);
  if (layout.scales == TiledScales::kF16) {
    std::memcpy(values + index * 2, &half, 2);
  } else {
    std::memcpy(values + index * 4, &value, 4);
  }
}

void PutCode(const quant::Matrix& matrix, const TiledLayout& layout, int32_t row, int32_t col,
             uint8_t* tile) {
  const int32_t tile_row = row % kTileRows, tile_col = col % TileCols(layout.codes);
  const int64_t element = int64_t{row} * matrix.cols + col;
  if (Is4Bit(layout.codes)) {
    const uint8_t code = matrix.codes[element / 2] >> (element % 2 * 4) & 15;
    const NibbleSlot slot = NibbleSlotOf(tile_row, tile_col);
    tile[slot.word * 4 + slot.nibble / 2] |= static_cast<uint8_t>(code << (slot.nibble % 2 * 4));
  } else {
    const uint8_t flip = layout.codes == TiledCodes::kInt8 ? 128 : 0;
    tile[ByteSlotOf(tile_row, tile_col)] = matrix.codes[element] ^ flip;
  }
}

// Row `row` of the matrix into the tiles that hold it; `tiles` are those of its 128 rows.
void PackRow(const quant::Matrix& matrix, const TiledLayout& layout, int32_t row, uint8_t* tiles) {
  const int32_t tile_cols = TileCols(layout.codes);
  const int32_t groups = (matrix.cols + matrix.group - 1) / matrix.group;
  for (int32_t col = 0; col < matrix.cols; ++col) {
    uint8_t* tile = tiles + int64_t{col / tile_cols} * TileBytes(layout);
    PutCode(matrix, layout, row, col, tile);
    if (col % layout.group != 0 || layout.scales == TiledScales::kRow) continue;
    const int64_t group = int64_t{row / matrix.row_group} * groups + col / matrix.group;
    const bool is_block = layout.scales == TiledScales::kBlock;
    const int32_t index =
        is_block ? 0 : TileScaleIndex(row % kTileRows, col % tile_cols / layout.group);
    uint8_t* scales = tile + kTileCodeBytes;
    PutValue(layout, matrix.scales[group], index, scales);
    if (layout.offsets)
      PutValue(layout, matrix.offsets[group], index, scales + TileScaleBytes(layout));
  }
}

bool HasKernel(const quant::Matrix& matrix) {
  switch (matrix.format) {
    case quant::Format::kInt4Affine:
    case quant::Format::kLut4:
      return matrix.group % 32 == 0;
    case quant::Format::kInt5Affine:
    case quant::Format::kInt8:
    case quant::Format::kFp8:
      return true;  // Validate: groups of multiples of 16, or whole rows; fp8's three kinds
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<TiledMatrix> PackTiles(const quant::Matrix& matrix) {
  if (const absl::Status status = quant::Validate(matrix); !status.ok()) return status;
  if (!HasKernel(matrix)) {
    return absl::UnimplementedError(
        absl::StrCat("the kernels take int4-affine and lut4 in groups of multiples of 32 columns, "
                     "int5-affine, int8 and fp8, not ",
                     quant::FormatName(matrix.format), " in groups of ", matrix.group));
  }
  const bool is_4bit =
      matrix.format == quant::Format::kInt4Affine || matrix.format == quant::Format::kLut4;
  TiledMatrix packed{is_4bit ? LayoutOf4Bit(matrix) : LayoutOf8Bit(matrix), {}};
  const TiledLayout& layout = packed.layout;
  packed.bytes.resize(TiledBytes(layout));
  const int64_t row_of_tiles = int64_t{ColTiles(layout)} * TileBytes(layout);
  for (int32_t row = 0; row < matrix.rows; ++row) {
    PackRow(matrix, layout, row, packed.bytes.data() + row / kTileRows * row_of_tiles);
    if (layout.scales != TiledScales::kRow) continue;
    PutValue(layout, matrix.scales[row / matrix.row_group], row,
             packed.bytes.data() + RowScalesAt(layout));
  }
  return packed;
}

}  // namespace nibble::cuda

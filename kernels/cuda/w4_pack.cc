#include "kernels/cuda/w4_pack.h"

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

W4Layout LayoutFor(const quant::Matrix& matrix) {
  W4Layout layout{.rows = matrix.rows, .cols = matrix.cols};
  for (const int32_t group : {32, 64, 128}) {
    if (matrix.group % group == 0) layout.group = group;
  }
  if (matrix.format == quant::Format::kLut4) {
    layout.codes = W4Codes::kTable;
    std::copy(std::begin(matrix.table), std::end(matrix.table), std::begin(layout.table));
  } else {
    const std::optional<int32_t> zero = CommonZero(matrix);
    layout.offsets = !zero.has_value();
    layout.zero = zero.value_or(0);
  }
  layout.f32_scales = !FitF16(matrix.scales) || (layout.offsets && !FitF16(matrix.offsets));
  return layout;
}

void PutValue(const W4Layout& layout, float value, int32_t index, uint8_t* values) {
  const uint16_t half = F32ToF16(value);
  if (layout.f32_scales) {
    std::memcpy(values + index * 4, &value, 4);
  } else {
    std::memcpy(values + index * 2, &half, 2);
  }
}

// Row `row` of the matrix into the tiles that hold it; `tiles` are those of its 128 rows.
void PackRow(const quant::Matrix& matrix, const W4Layout& layout, int32_t row, uint8_t* tiles) {
  const int32_t tile_row = row % kW4TileRows;
  for (int32_t col = 0; col < matrix.cols; ++col) {
    uint8_t* tile = tiles + int64_t{col / kW4TileCols} * W4TileBytes(layout);
    const uint8_t code = matrix.codes[(int64_t{row} * matrix.cols + col) / 2] >> (col % 2 * 4) & 15;
    const W4NibbleSlot slot = W4SlotOf(tile_row, col % kW4TileCols);
    tile[slot.word * 4 + slot.nibble / 2] |= static_cast<uint8_t>(code << (slot.nibble % 2 * 4));
    if (col % layout.group != 0) continue;
    const int64_t group = int64_t{row} * (matrix.cols / matrix.group) + col / matrix.group;
    const int32_t index = W4ScaleIndex(tile_row, col % kW4TileCols / layout.group);
    uint8_t* scales = tile + kW4NibbleBytes;
    PutValue(layout, matrix.scales[group], index, scales);
    if (layout.offsets)
      PutValue(layout, matrix.offsets[group], index, scales + W4ScaleBytes(layout));
  }
}

}  // namespace

absl::StatusOr<W4Packed> PackW4(const quant::Matrix& matrix) {
  if (const absl::Status status = quant::Validate(matrix); !status.ok()) return status;
  if (matrix.format != quant::Format::kInt4Affine && matrix.format != quant::Format::kLut4) {
    return absl::UnimplementedError(absl::StrCat("the W4 kernels take int4-affine and lut4, not ",
                                                 quant::FormatName(matrix.format)));
  }
  if (matrix.group % 32 != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "the W4 kernels need groups that are multiples of 32 columns, not ", matrix.group));
  }
  W4Packed packed{LayoutFor(matrix), {}};
  packed.bytes.resize(W4Bytes(packed.layout));
  const int64_t row_of_tiles = int64_t{W4ColTiles(packed.layout)} * W4TileBytes(packed.layout);
  for (int32_t row = 0; row < matrix.rows; ++row) {
    PackRow(matrix, packed.layout, row, packed.bytes.data() + row / kW4TileRows * row_of_tiles);
  }
  return packed;
}

}  // namespace nibble::cuda

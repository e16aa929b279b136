// How a 4-bit matrix lies in device memory, as index functions that the packer, the kernel and the
// tests share.
//
// The matrix [rows, cols] is cut into tiles of 128 rows x 128 columns, each one contiguous run of
// bytes, so that a block streams its row of tiles front to back:
//   8192 bytes of nibbles, then scales [128 / group, 128] f16 or f32, then (where there are
//   offsets) as many of these.
// Tiles follow each other by columns, then rows. Past the matrix's end codes and scales are 0.
//
// Nibbles are in fragment order (Marlin, arXiv 2408.11743): each lane of a warp reads 16 bytes and
// has what 4 mma of m16n8k16 take for their A operand, 16 rows x 64 columns a warp. A 32-bit word
// is one mma's: nibble i goes to the lower half of register i, nibble i + 4 to its upper half, so
// that (word >> 4 i) & 0x000F000F is a register's pair. A warp owns 32 rows of a tile.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble::cuda {

inline constexpr int32_t kW4TileRows = 128, kW4TileCols = 128;
inline constexpr int32_t kW4NibbleBytes = kW4TileRows * kW4TileCols / 2;

enum class W4Codes : uint8_t {
  kInteger,  // value = scale * (code - zero) + offset
  kTable,    // value = scale * table[code]
};

struct W4Layout {
  int32_t rows = 0, cols = 0;
  int32_t group = 0;  // 32, 64 or 128 columns that share a scale
  W4Codes codes = W4Codes::kInteger;
  bool f32_scales = false;
  bool offsets = false;
  int32_t zero = 0;      // kInteger: 0 .. 15
  float table[16] = {};  // kTable
};

constexpr int32_t W4RowTiles(const W4Layout& layout) {
  return (layout.rows + kW4TileRows - 1) / kW4TileRows;
}
constexpr int32_t W4ColTiles(const W4Layout& layout) {
  return (layout.cols + kW4TileCols - 1) / kW4TileCols;
}
// Of the scales, and as much for the offsets.
constexpr int32_t W4ScaleBytes(const W4Layout& layout) {
  return kW4TileCols / layout.group * kW4TileRows * (layout.f32_scales ? 4 : 2);
}
constexpr int32_t W4TileBytes(const W4Layout& layout) {
  return kW4NibbleBytes + W4ScaleBytes(layout) * (layout.offsets ? 2 : 1);
}
constexpr int64_t W4Bytes(const W4Layout& layout) {
  return int64_t{W4RowTiles(layout)} * W4ColTiles(layout) * W4TileBytes(layout);
}

// Which nibble of which 32-bit word of a tile holds its element (row, col).
struct W4NibbleSlot {
  int32_t word;    // 0 .. 2047
  int32_t nibble;  // 0 .. 7, the lowest first
};
constexpr W4NibbleSlot W4SlotOf(int32_t row, int32_t col) {
  const int32_t lane = row % 8 * 4 + col % 8 / 2;
  const int32_t reg =
      row / 8 % 2 + col / 8 % 2 * 2;  // of the A fragment: rows 8 .. 15, then columns 8 .. 15
  const int32_t step = col / 16;      // the mma along k
  const int32_t load = row / 16 * 2 + step / 4;  // 16 rows x 64 columns: one 16-byte load of a warp
  return {(load * 32 + lane) * 4 + step % 4, reg + col % 2 * 4};
}

// Where a tile's scale (or offset) of `row` for its group `group_in_tile` lies among its scales:
// rows r and r + 8 are neighbours, since one lane needs both.
constexpr int32_t W4ScaleIndex(int32_t row, int32_t group_in_tile) {
  return group_in_tile * kW4TileRows + row / 16 * 16 + row % 8 * 2 + row / 8 % 2;
}

}  // namespace nibble::cuda

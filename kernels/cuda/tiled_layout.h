// How a matrix of 4-bit or 8-bit codes lies in device memory, as index functions that the packer,
// the kernels and the tests share.
//
// The matrix [rows, cols] is cut into tiles of 128 rows x 128 columns (4-bit) or x 64 (8-bit),
// each one contiguous run of bytes, so that a block streams its row of tiles front to back:
//   8192 bytes of codes, then scales, then (where there are offsets) as many of these:
//     kF16, kF32  [columns of a tile / group, 128]
//     kBlock      one f32, filled up to a sector of 32 bytes
//     kRow        none; behind the last tile lie [row tiles * 128] f32
// Tiles follow each other by columns, then rows. Past the matrix's end codes and scales are 0.
//
// Codes are in fragment order (Marlin, arXiv 2408.11743): a lane of a warp reads 16 bytes and has
// what 4 mma of m16n8k16 (2 with 8-bit codes) take for their A operand. A warp owns 32 rows.
//   4-bit  a 32-bit word is one mma's: nibble i goes to the lower half of register i, nibble i + 4
//          to its upper half, so that (word >> 4 i) & 0x000F000F is a register's pair
//   8-bit  8 bytes are one mma's: bytes 2 i and 2 i + 1 go to the halves of register i
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble::cuda {

inline constexpr int32_t kTileRows = 128, kTileCodeBytes = 8192;

enum class TiledCodes : uint8_t {  // value, s and m the scale and the offset of its group
  kInt4,                           // s * (code - zero) + m
  kLut4,                           // s * table[code]
  kInt8,                           // s * (code - 128) + m
  kE4m3,                           // s * fp8(code)
  kE5m2,
};

enum class TiledScales : uint8_t {
  kF16,    // for each row and group of columns
  kF32,    // the same
  kRow,    // for each row, f32; 8-bit codes without offsets
  kBlock,  // for each tile, f32: of 128 x 128 elements; fp8 codes
};

constexpr bool Is4Bit(TiledCodes codes) {
  return codes == TiledCodes::kInt4 || codes == TiledCodes::kLut4;
}

struct TiledLayout {
  int32_t rows = 0, cols = 0;
  // Columns that share a scale of kF16 and kF32: 32, 64 or 128, of 8-bit codes 16, 32 or 64. With
  // other scales a tile's columns.
  int32_t group = 0;
  TiledCodes codes = TiledCodes::kInt4;
  TiledScales scales = TiledScales::kF16;
  bool offsets = false;  // kInt4, kInt8
  int32_t zero = 0;      // kInt4: 0 .. 15
  float table[16] = {};  // kLut4

  friend bool operator==(const TiledLayout&, const TiledLayout&) = default;
};

// Whether one launch may multiply with both: they are alike in all but their rows.
constexpr bool ShareALaunch(const TiledLayout& a, TiledLayout b) {
  b.rows = a.rows;
  return a == b;
}

// What PackTiles makes and the kernels are compiled for.
constexpr bool IsTiled(const TiledLayout& layout) {
  const bool of_groups = layout.scales == TiledScales::kF16 || layout.scales == TiledScales::kF32;
  const int32_t most = Is4Bit(layout.codes) ? 128 : 64, group = layout.group;
  if (group != most && group != most / 2 && group != most / 4) return false;
  switch (layout.codes) {
    case TiledCodes::kInt4:
      return of_groups && layout.zero >= 0 && layout.zero < 16;
    case TiledCodes::kLut4:
      return of_groups && !layout.offsets;
    case TiledCodes::kInt8:
      if (layout.scales == TiledScales::kRow) return group == most && !layout.offsets;
      return layout.offsets ? layout.scales == TiledScales::kF32 : of_groups;
    case TiledCodes::kE4m3:
    case TiledCodes::kE5m2:
      return !of_groups && group == most && !layout.offsets;
  }
  return false;
}

constexpr int32_t TileCols(TiledCodes codes) { return Is4Bit(codes) ? 128 : 64; }
constexpr int32_t RowTiles(const TiledLayout& layout) {
  return (layout.rows + kTileRows - 1) / kTileRows;
}
constexpr int32_t ColTiles(const TiledLayout& layout) {
  return (layout.cols + TileCols(layout.codes) - 1) / TileCols(layout.codes);
}
// Of a tile's scales, and as much for its offsets.
constexpr int32_t TileScaleBytes(const TiledLayout& layout) {
  if (layout.scales == TiledScales::kRow) return 0;
  if (layout.scales == TiledScales::kBlock) return 32;
  return TileCols(layout.codes) / layout.group * kTileRows *
         (layout.scales == TiledScales::kF32 ? 4 : 2);
}
constexpr int32_t TileBytes(const TiledLayout& layout) {
  return kTileCodeBytes + TileScaleBytes(layout) * (layout.offsets ? 2 : 1);
}
// Where the scales of kRow begin.
constexpr int64_t RowScalesAt(const TiledLayout& layout) {
  return int64_t{RowTiles(layout)} * ColTiles(layout) * TileBytes(layout);
}
constexpr int64_t TiledBytes(const TiledLayout& layout) {
  const bool has_rows = layout.scales == TiledScales::kRow;
  return RowScalesAt(layout) + (has_rows ? int64_t{RowTiles(layout)} * kTileRows * 4 : 0);
}

// The lane, and the register and half of the A fragment, that an mma takes an element from.
constexpr int32_t LaneOf(int32_t row, int32_t col) { return row % 8 * 4 + col % 8 / 2; }
constexpr int32_t RegisterOf(int32_t row, int32_t col) {
  return row / 8 % 2 + col / 8 % 2 * 2;  // rows 8 .. 15, then columns 8 .. 15
}

// Which nibble of which 32-bit word of a 4-bit tile holds its element (row, col).
struct NibbleSlot {
  int32_t word;    // 0 .. 2047
  int32_t nibble;  // 0 .. 7, the lowest first
};
constexpr NibbleSlot NibbleSlotOf(int32_t row, int32_t col) {
  const int32_t step = col / 16;                 // the mma along k
  const int32_t load = row / 16 * 2 + step / 4;  // 16 rows x 64 columns: one 16-byte load of a warp
  return {(load * 32 + LaneOf(row, col)) * 4 + step % 4, RegisterOf(row, col) + col % 2 * 4};
}

// Which byte of an 8-bit tile holds its element (row, col).
constexpr int32_t ByteSlotOf(int32_t row, int32_t col) {
  const int32_t step = col / 16;
  const int32_t load = row / 16 * 2 + step / 2;  // 16 rows x 32 columns
  return (load * 32 + LaneOf(row, col)) * 16 + step % 2 * 8 + RegisterOf(row, col) * 2 + col % 2;
}

// Where a tile's scale (or offset) of `row` for its group `group_in_tile` lies among its scales:
// rows r and r + 8 are neighbours, since one lane needs both. Of kBlock the only one is the first.
constexpr int32_t TileScaleIndex(int32_t row, int32_t group_in_tile) {
  return group_in_tile * kTileRows + row / 16 * 16 + row % 8 * 2 + row / 8 % 2;
}

}  // namespace nibble::cuda

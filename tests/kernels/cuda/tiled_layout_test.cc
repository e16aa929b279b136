// The layout of weights in tiles: every element has one place of its own, the one where the
// kernel's lanes look for it, and packing keeps every value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>
#include <tuple>
#include <vector>

#include "fragment_model.h"
#include "kernels/cuda/tiled_pack.h"
#include "kernels/fp8.h"
#include "kernels/half.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

TEST(TiledLayout, GivesEveryElementOfATileItsOwnPlace) {
  std::set<std::pair<int, int>> nibbles;
  std::set<int> bytes;
  for (int row = 0; row < kTileRows; ++row) {
    for (int col = 0; col < 128; ++col) {
      const NibbleSlot slot = NibbleSlotOf(row, col);
      ASSERT_TRUE(slot.word >= 0 && slot.word < kTileCodeBytes / 4 && slot.nibble >= 0 &&
                  slot.nibble < 8);
      nibbles.insert({slot.word, slot.nibble});
      if (col >= 64) continue;
      ASSERT_TRUE(ByteSlotOf(row, col) >= 0 && ByteSlotOf(row, col) < kTileCodeBytes);
      bytes.insert(ByteSlotOf(row, col));
    }
  }
  EXPECT_EQ(nibbles.size(), 2u * kTileCodeBytes);
  EXPECT_EQ(bytes.size(), static_cast<size_t>(kTileCodeBytes));
}

// By the manual: word `step` of the 16 bytes that a lane loads becomes its four A registers of that
// mma.
TEST(TiledLayout, PutsNibblesWhereTheLaneThatMultipliesThemReads) {
  for (int row = 0; row < kTileRows; ++row) {
    for (int col = 0; col < 128; ++col) {
      const NibbleSlot slot = NibbleSlotOf(row, col);
      const RegisterSlot in_mma = SlotOfA(row % 16, col % 16);
      EXPECT_EQ(slot.word / 4 % 32, in_mma.lane);
      EXPECT_EQ(slot.word % 4, col / 16 % 4);
      EXPECT_EQ(slot.word / 128, row / 16 * 2 + col / 64);
      EXPECT_EQ(slot.nibble % 4, in_mma.value / 2) << "register";
      EXPECT_EQ(slot.nibble / 4, in_mma.value % 2) << "half of it";
    }
  }
}

// Bytes 8 * step .. of those 16 are the registers' values of that mma in their order.
TEST(TiledLayout, PutsBytesWhereTheLaneThatMultipliesThemReads) {
  for (int row = 0; row < kTileRows; ++row) {
    for (int col = 0; col < 64; ++col) {
      const int slot = ByteSlotOf(row, col);
      const RegisterSlot in_mma = SlotOfA(row % 16, col % 16);
      EXPECT_EQ(slot / 16 % 32, in_mma.lane);
      EXPECT_EQ(slot / 8 % 2, col / 16 % 2);
      EXPECT_EQ(slot / 512, row / 16 * 2 + col / 32);
      EXPECT_EQ(slot % 8, in_mma.value);
    }
  }
}

TEST(TiledLayout, GivesEveryScaleOfATileItsOwnPlaceBesideItsPartner) {
  for (const int groups : {1, 2, 4}) {
    std::set<int> places;
    for (int group = 0; group < groups; ++group) {
      for (int row = 0; row < kTileRows; ++row) {
        places.insert(TileScaleIndex(row, group));
        if (row % 16 < 8) {
          EXPECT_EQ(TileScaleIndex(row + 8, group), TileScaleIndex(row, group) + 1);
        }
      }
    }
    EXPECT_EQ(places.size(), static_cast<size_t>(groups * kTileRows));
    EXPECT_EQ(*places.rbegin(), groups * kTileRows - 1);
  }
}

float ValueOf(const TiledLayout& layout, int code) {
  switch (layout.codes) {
    case TiledCodes::kInt4:
      return static_cast<float>(code - layout.zero);
    case TiledCodes::kLut4:
      return layout.table[code];
    case TiledCodes::kInt8:
      return static_cast<float>(code - 128);
    case TiledCodes::kE4m3:
      return E4m3ToF32(static_cast<uint8_t>(code));
    case TiledCodes::kE5m2:
      return E5m2ToF32(static_cast<uint8_t>(code));
  }
  return NAN;
}

// A scale or an offset, of those at `values`.
double ScaleAt(const TiledLayout& layout, const uint8_t* values, int index) {
  float f32;
  uint16_t f16;
  const bool is_f16 = layout.scales == TiledScales::kF16;
  std::memcpy(&f32, values + (is_f16 ? 0 : index * 4), 4);
  std::memcpy(&f16, values + index * 2, 2);
  return double{is_f16 ? F16ToF32(f16) : f32};
}

// An element of packed bytes, by the index functions alone.
double Element(const TiledMatrix& packed, int row, int col) {
  const TiledLayout& layout = packed.layout;
  const int tile_cols = TileCols(layout.codes), tile_row = row % kTileRows;
  const int64_t tile = int64_t{row / kTileRows} * ColTiles(layout) + col / tile_cols;
  const uint8_t* bytes = packed.bytes.data() + tile * TileBytes(layout);
  int code;
  if (Is4Bit(layout.codes)) {
    const NibbleSlot slot = NibbleSlotOf(tile_row, col % tile_cols);
    code = bytes[slot.word * 4 + slot.nibble / 2] >> (slot.nibble % 2 * 4) & 15;
  } else {
    code = bytes[ByteSlotOf(tile_row, col % tile_cols)];
  }
  const double value = ValueOf(layout, code);
  if (layout.scales == TiledScales::kRow)
    return ScaleAt(layout, packed.bytes.data() + RowScalesAt(layout), row) * value;
  const bool is_block = layout.scales == TiledScales::kBlock;
  const int index = is_block ? 0 : TileScaleIndex(tile_row, col % tile_cols / layout.group);
  const uint8_t* scales = bytes + kTileCodeBytes;
  const double offset =
      layout.offsets ? ScaleAt(layout, scales + TileScaleBytes(layout), index) : 0;
  return ScaleAt(layout, scales, index) * value + offset;
}

void ExpectKept(const quant::Matrix& matrix, const TiledMatrix& packed) {
  EXPECT_TRUE(IsTiled(packed.layout));
  EXPECT_EQ(static_cast<int64_t>(packed.bytes.size()), TiledBytes(packed.layout));
  std::vector<float> expected(matrix.cols);
  for (int row = 0; row < matrix.rows; ++row) {
    quant::DequantizeRow(matrix, row, expected.data());
    for (int col = 0; col < matrix.cols; ++col) {
      ASSERT_NEAR(Element(packed, row, col), expected[col], 1e-6 + 1e-6 * std::abs(expected[col]))
          << row << ", " << col;
    }
  }
}

using PackCase = std::tuple<int, bool, bool, quant::Format>;  // group, offsets, f16 scales
class PackTilesTest : public testing::TestWithParam<PackCase> {};

TEST_P(PackTilesTest, KeepsEveryValue) {
  const auto [group, offsets, f16_scales, format] = GetParam();
  if (offsets && format == quant::Format::kLut4) return;
  for (const auto& [rows, cols] :
       {std::pair{128, 384}, std::pair{200, 576}, std::pair{1, 192}, std::pair{129, 64}}) {
    quant::RandomSpec spec{
        .format = format, .rows = rows, .cols = cols, .offsets = offsets, .f16_scales = f16_scales};
    spec.group = cols % group == 0 ? group : cols;
    const quant::Matrix matrix = quant::RandomMatrix(spec, 5);
    const absl::StatusOr<TiledMatrix> packed = PackTiles(matrix);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->layout.offsets, offsets);
    EXPECT_EQ(packed->layout.scales, f16_scales ? TiledScales::kF16 : TiledScales::kF32);
    ExpectKept(matrix, *packed);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, PackTilesTest,
    testing::Combine(testing::Values(32, 64, 128, 192), testing::Bool(), testing::Bool(),
                     testing::Values(quant::Format::kInt4Affine, quant::Format::kLut4)));

struct ByteCase {
  quant::RandomSpec spec;
  TiledScales scales;
  int32_t group;
  double bits;  // a weight of a matrix of whole tiles
};

TEST(PackTiles, KeepsEveryValueOf8BitCodesWithTheFewestScales) {
  using quant::Format;
  using quant::Fp8;
  const ByteCase cases[] = {
      {{.format = Format::kInt8, .group = 32}, TiledScales::kF16, 32, 8.5},
      {{.format = Format::kInt8, .group = 16, .f16_scales = false}, TiledScales::kF32, 16, 10},
      {{.format = Format::kInt8, .group = 128}, TiledScales::kF16, 64, 8.25},
      {{.format = Format::kInt8, .group = 32, .offsets = true}, TiledScales::kF32, 32, 10},
      {{.format = Format::kInt8, .group = 0, .f16_scales = false}, TiledScales::kRow, 64, 8.125},
      {{.format = Format::kInt8, .group = 0, .offsets = true}, TiledScales::kF32, 64, 9},
      {{.format = Format::kInt5Affine, .group = 32}, TiledScales::kF16, 32, 8.5},
      {{.format = Format::kFp8, .group = 0, .row_group = 1}, TiledScales::kRow, 64, 8.125},
      {{.format = Format::kFp8, .group = 0, .row_group = 0, .fp8 = Fp8::kE5m2},
       TiledScales::kRow,
       64,
       8.125},
      {{.format = Format::kFp8, .group = 128, .row_group = 128}, TiledScales::kBlock, 64, 8.03125},
  };
  for (const ByteCase& test : cases) {
    for (const auto& [rows, cols] : {std::pair{256, 256}, std::pair{200, 640}, std::pair{1, 256}}) {
      quant::RandomSpec spec = test.spec;
      spec.rows = rows;
      spec.cols = cols;
      if (spec.group == 0) spec.group = cols;
      if (spec.row_group == 0) spec.row_group = rows;
      const quant::Matrix matrix = quant::RandomMatrix(spec, 5);
      const absl::StatusOr<TiledMatrix> packed = PackTiles(matrix);
      ASSERT_TRUE(packed.ok()) << packed.status();
      EXPECT_EQ(packed->layout.scales, test.scales);
      EXPECT_EQ(packed->layout.group, test.group);
      ExpectKept(matrix, *packed);
      if (rows != 256) continue;
      EXPECT_DOUBLE_EQ(packed->bytes.size() * 8.0 / (rows * cols), test.bits);
    }
  }
}

TEST(PackTiles, FoldsACommonZeroPoint) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = 16, .cols = 64, .offsets = true}, 1);
  for (size_t i = 0; i < matrix.scales.size(); ++i) matrix.offsets[i] = -8 * matrix.scales[i];
  const absl::StatusOr<TiledMatrix> packed = PackTiles(matrix);
  ASSERT_TRUE(packed.ok());
  EXPECT_FALSE(packed->layout.offsets);
  EXPECT_EQ(packed->layout.zero, 8);
  matrix.offsets[3] += 1;
  EXPECT_TRUE(PackTiles(matrix)->layout.offsets);
}

TEST(PackTiles, StoresInt4OfGroup128In4Point125Bits) {
  const absl::StatusOr<TiledMatrix> packed =
      PackTiles(quant::RandomMatrix({.rows = 256, .cols = 1024, .group = 128}, 1));
  ASSERT_TRUE(packed.ok());
  EXPECT_DOUBLE_EQ(packed->bytes.size() * 8.0 / (256 * 1024), 4.125);
}

TEST(PackTiles, RefusesWhatItHasNoKernelFor) {
  const auto code = [](const quant::Matrix& matrix) { return PackTiles(matrix).status().code(); };
  EXPECT_EQ(code(quant::RandomMatrix({.format = quant::Format::kBf16, .group = 0}, 1)),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code(quant::RandomMatrix({.group = 16}, 1)), absl::StatusCode::kUnimplemented);
  quant::Matrix broken = quant::RandomMatrix({}, 1);
  broken.scales.pop_back();
  EXPECT_EQ(code(broken), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble::cuda

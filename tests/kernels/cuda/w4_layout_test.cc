// The layout of 4-bit weights: every element has one place of its own, the one where the kernel's
// lanes look for it, and packing keeps every value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <tuple>
#include <vector>

#include "fragment_model.h"
#include "kernels/cuda/w4_pack.h"
#include "kernels/half.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

TEST(W4Layout, GivesEveryElementOfATileItsOwnNibble) {
  std::set<std::pair<int, int>> slots;
  for (int row = 0; row < kW4TileRows; ++row) {
    for (int col = 0; col < kW4TileCols; ++col) {
      const W4NibbleSlot slot = W4SlotOf(row, col);
      ASSERT_TRUE(slot.word >= 0 && slot.word < kW4NibbleBytes / 4 && slot.nibble >= 0 &&
                  slot.nibble < 8);
      slots.insert({slot.word, slot.nibble});
    }
  }
  EXPECT_EQ(slots.size(), static_cast<size_t>(kW4TileRows * kW4TileCols));
}

// By the manual: word `step` of the 16 bytes that a lane loads becomes its four A registers of that
// mma.
TEST(W4Layout, PutsNibblesWhereTheLaneThatMultipliesThemReads) {
  for (int row = 0; row < kW4TileRows; ++row) {
    for (int col = 0; col < kW4TileCols; ++col) {
      const W4NibbleSlot slot = W4SlotOf(row, col);
      const RegisterSlot in_mma = SlotOfA(row % 16, col % 16);
      EXPECT_EQ(slot.word / 4 % 32, in_mma.lane);
      EXPECT_EQ(slot.word % 4, col / 16 % 4);
      EXPECT_EQ(slot.word / 128, row / 16 * 2 + col / 64);
      EXPECT_EQ(slot.nibble % 4, in_mma.value / 2) << "register";
      EXPECT_EQ(slot.nibble / 4, in_mma.value % 2) << "half of it";
    }
  }
}

TEST(W4Layout, GivesEveryScaleOfATileItsOwnPlaceBesideItsPartner) {
  for (const int groups : {1, 2, 4}) {
    std::set<int> places;
    for (int group = 0; group < groups; ++group) {
      for (int row = 0; row < kW4TileRows; ++row) {
        places.insert(W4ScaleIndex(row, group));
        if (row % 16 < 8) {
          EXPECT_EQ(W4ScaleIndex(row + 8, group), W4ScaleIndex(row, group) + 1);
        }
      }
    }
    EXPECT_EQ(places.size(), static_cast<size_t>(groups * kW4TileRows));
    EXPECT_EQ(*places.rbegin(), groups * kW4TileRows - 1);
  }
}

// An element of packed bytes, by the index functions alone.
double Element(const W4Packed& packed, int row, int col) {
  const W4Layout& layout = packed.layout;
  const int64_t tile = int64_t{row / kW4TileRows} * W4ColTiles(layout) + col / kW4TileCols;
  const uint8_t* bytes = packed.bytes.data() + tile * W4TileBytes(layout);
  const W4NibbleSlot slot = W4SlotOf(row % kW4TileRows, col % kW4TileCols);
  const int code = bytes[slot.word * 4 + slot.nibble / 2] >> (slot.nibble % 2 * 4) & 15;
  const int index = W4ScaleIndex(row % kW4TileRows, col % kW4TileCols / layout.group);
  const auto value = [&](const uint8_t* values) {
    float f32;
    uint16_t f16;
    std::memcpy(&f32, values + index * (layout.f32_scales ? 4 : 0), 4);
    std::memcpy(&f16, values + index * 2, 2);
    return double{layout.f32_scales ? f32 : F16ToF32(f16)};
  };
  const double scale = value(bytes + kW4NibbleBytes);
  const double offset = layout.offsets ? value(bytes + kW4NibbleBytes + W4ScaleBytes(layout)) : 0;
  const double factor = layout.codes == W4Codes::kTable ? layout.table[code] : code - layout.zero;
  return scale * factor + offset;
}

using PackCase = std::tuple<int, bool, bool, quant::Format>;  // group, offsets, f16 scales
class W4PackTest : public testing::TestWithParam<PackCase> {};

TEST_P(W4PackTest, KeepsEveryValue) {
  const auto [group, offsets, f16_scales, format] = GetParam();
  if (offsets && format == quant::Format::kLut4) return;
  for (const auto& [rows, cols] :
       {std::pair{128, 384}, std::pair{200, 576}, std::pair{1, 192}, std::pair{129, 64}}) {
    quant::RandomSpec spec{
        .format = format, .rows = rows, .cols = cols, .offsets = offsets, .f16_scales = f16_scales};
    spec.group = cols % group == 0 ? group : cols;
    const quant::Matrix matrix = quant::RandomMatrix(spec, 5);
    const absl::StatusOr<W4Packed> packed = PackW4(matrix);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(packed->layout.offsets, offsets);
    EXPECT_EQ(packed->layout.f32_scales, !f16_scales);
    EXPECT_EQ(static_cast<int64_t>(packed->bytes.size()), W4Bytes(packed->layout));
    std::vector<float> expected(cols);
    for (int row = 0; row < rows; ++row) {
      quant::DequantizeRow(matrix, row, expected.data());
      for (int col = 0; col < cols; ++col) {
        ASSERT_NEAR(Element(*packed, row, col), expected[col], 1e-6) << row << ", " << col;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Each, W4PackTest,
    testing::Combine(testing::Values(32, 64, 128, 192), testing::Bool(), testing::Bool(),
                     testing::Values(quant::Format::kInt4Affine, quant::Format::kLut4)));

TEST(W4Pack, FoldsACommonZeroPoint) {
  quant::Matrix matrix = quant::RandomMatrix({.rows = 16, .cols = 64, .offsets = true}, 1);
  for (size_t i = 0; i < matrix.scales.size(); ++i) matrix.offsets[i] = -8 * matrix.scales[i];
  const absl::StatusOr<W4Packed> packed = PackW4(matrix);
  ASSERT_TRUE(packed.ok());
  EXPECT_FALSE(packed->layout.offsets);
  EXPECT_EQ(packed->layout.zero, 8);
  matrix.offsets[3] += 1;
  EXPECT_TRUE(PackW4(matrix)->layout.offsets);
}

TEST(W4Pack, StoresInt4OfGroup128In4Point125Bits) {
  const absl::StatusOr<W4Packed> packed =
      PackW4(quant::RandomMatrix({.rows = 256, .cols = 1024, .group = 128}, 1));
  ASSERT_TRUE(packed.ok());
  EXPECT_DOUBLE_EQ(packed->bytes.size() * 8.0 / (256 * 1024), 4.125);
}

TEST(W4Pack, RefusesWhatItHasNoKernelFor) {
  const auto code = [](const quant::Matrix& matrix) { return PackW4(matrix).status().code(); };
  EXPECT_EQ(code(quant::RandomMatrix({.format = quant::Format::kInt8}, 1)),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code(quant::RandomMatrix({.group = 16}, 1)), absl::StatusCode::kUnimplemented);
  quant::Matrix broken = quant::RandomMatrix({}, 1);
  broken.scales.pop_back();
  EXPECT_EQ(code(broken), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nibble::cuda

// Slabs of tiles on the emulator: every code of every kind is what the canonical matrix says,
// rounded once, wherever in a tile it lies and wherever the matrix ends; and what it asks of
// memory.
#include "kernels/cuda/dequantize_tiles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/pack_matrix.h"
#include "tiled_world.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using quant::Format;

constexpr uint16_t kUntouched = 0x5555;

// Rows first .. first + count - 1; gaps between them must stay as they were.
std::vector<uint16_t> Slab(const quant::Matrix& matrix, DType dtype, int32_t first, int32_t count) {
  const HostMatrix host = PackMatrix(matrix).value();
  const DeviceArray<uint8_t> bytes(host.bytes);
  const int32_t stride = matrix.cols + 16;  // whole sectors
  const DeviceArray<uint16_t> out(
      std::vector<uint16_t>(static_cast<size_t>(count) * stride, kUntouched));
  DequantizeCall call{.matrix = host.stored, .first = first, .rows = count, .dtype = dtype};
  call.matrix.bytes = bytes.data();
  call.out = out.data();
  call.out_stride = stride;
  EXPECT_TRUE(IsSlabOfTiles(call));
  TheGpu().ResetCounts();
  EXPECT_EQ(LaunchDequantize(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  std::vector<uint16_t> rows;
  const std::vector<uint16_t> all = out.Read();
  for (int32_t r = 0; r < count; ++r) {
    const auto row = all.begin() + int64_t{r} * stride;
    rows.insert(rows.end(), row, row + matrix.cols);
    EXPECT_TRUE(
        std::all_of(row + matrix.cols, row + stride, [](uint16_t x) { return x == kUntouched; }));
  }
  return rows;
}

void ExpectValues(const quant::Matrix& matrix, DType dtype, int32_t first, int32_t count) {
  const std::vector<uint16_t> got = Slab(matrix, dtype, first, count);
  std::vector<float> row(matrix.cols);
  for (int32_t r = 0; r < count; ++r) {
    quant::DequantizeRow(matrix, first + r, row.data());
    for (int32_t c = 0; c < matrix.cols; ++c) {
      ASSERT_EQ(ToFloat(dtype, got[int64_t{r} * matrix.cols + c]),
                ToFloat(dtype, ToHalf(dtype, row[c])))
          << first + r << ", " << c;
    }
  }
}

class DequantizeTilesTest : public testing::TestWithParam<TiledFormat> {};

// Ends within a tile, a load of 16 rows, a pair of rows 8 apart and a run of 32 columns.
TEST_P(DequantizeTilesTest, RoundsEveryValueOnceOnShapesWithTails) {
  const bool is_block = GetParam().spec.group == 128;
  for (const auto& [rows, cols] :
       {std::pair{1, 32}, std::pair{130, 96}, std::pair{37, 576}, std::pair{255, 160}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols);
    quant::RandomSpec spec = GetParam().Of(rows, cols);
    if (is_block) spec.cols = cols + 8;  // blocks end anywhere
    const quant::Matrix matrix = quant::RandomMatrix(spec, 5);
    for (const DType dtype : {DType::kBf16, DType::kF16}) {
      ExpectValues(matrix, dtype, 0, rows);
      if (rows > 128) ExpectValues(matrix, dtype, 128, rows - 128);
      if (rows > 100) ExpectValues(matrix, dtype, 0, 100);
    }
  }
}

// Element (r, c) has code r + c + k. Over all k each place of a tile has had each 4-bit code, and
// each 8-bit code has been in 2048 places.
TEST_P(DequantizeTilesTest, KnowsEveryCodeInEveryPlace) {
  quant::RandomSpec spec = GetParam().Of(128, 256);
  const bool is_4bit = spec.format == Format::kInt4Affine || spec.format == Format::kLut4;
  quant::Matrix matrix = quant::RandomMatrix(spec, 7);
  std::set<int> seen;
  for (int k = 0; k < 16; ++k) {
    for (int32_t i = 0; i < 128 * 256; ++i) {
      int code = i / 256 + i % 256 + k * (is_4bit ? 1 : 17);
      code %= is_4bit ? 16 : 256;
      if (spec.format == Format::kFp8) {
        const bool is_number = spec.fp8 == quant::Fp8::kE4m3
                                   ? !E4m3IsNan(static_cast<uint8_t>(code))
                                   : E5m2IsFinite(static_cast<uint8_t>(code));
        if (!is_number) code = 0;
      }
      seen.insert(code);
      if (is_4bit) {
        uint8_t& both = matrix.codes[i / 2];
        both = static_cast<uint8_t>(i % 2 == 0 ? (both & 0xF0) | code : (both & 0x0F) | code << 4);
      } else {
        matrix.codes[i] = static_cast<uint8_t>(code);
      }
    }
    ExpectValues(matrix, k % 2 == 0 ? DType::kBf16 : DType::kF16, 0, 128);
  }
  const size_t codes = is_4bit ? 16 : (spec.format == Format::kFp8 ? 248 : 256);
  EXPECT_GE(seen.size(), codes);
}

TEST_P(DequantizeTilesTest, GivesTheSameBitsInEveryOrderOfBlocksAndThreads) {
  const quant::Matrix matrix = quant::RandomMatrix(GetParam().Of(256, 256), 9);
  const std::vector<uint16_t> expected = Slab(matrix, DType::kF16, 0, 256);
  TheGpu().SetSeed(3);
  EXPECT_EQ(Slab(matrix, DType::kF16, 0, 256), expected);
  TheGpu().SetSeed(0);
}

// Each byte of codes once, whole sectors of the result; scales again for each 16 columns, from L1.
TEST_P(DequantizeTilesTest, AsksForTheBytesItNeedsWithoutConflicts) {
  const quant::Matrix matrix = quant::RandomMatrix(GetParam().Of(256, 512), 9);
  Slab(matrix, DType::kF16, 0, 256);
  const emulator::Counts& counts = TheGpu().counts();
  EXPECT_EQ(counts.launches, 1u);
  EXPECT_EQ(counts.bank_conflicts, 0u);
  EXPECT_EQ(counts.global_write_bytes, uint64_t{256} * 512 * 2);
  EXPECT_EQ(counts.global_write_sectors * 32, counts.global_write_bytes);
}

INSTANTIATE_TEST_SUITE_P(Each, DequantizeTilesTest, testing::ValuesIn(TiledFormats()),
                         [](const auto& info) { return info.param.name; });

TEST(DequantizeTiles, LeavesRowsByIdAndSlabsWithinATileToTheOtherKernel) {
  DequantizeCall call;
  call.matrix.storage = Storage::kTiled;
  call.first = 256;
  EXPECT_TRUE(IsSlabOfTiles(call));
  call.first = 64;
  EXPECT_FALSE(IsSlabOfTiles(call));
  call.first = 0;
  const int32_t id = 0;
  call.ids = &id;
  EXPECT_FALSE(IsSlabOfTiles(call));
  call.ids = nullptr;
  call.matrix.storage = Storage::kCodes;
  EXPECT_FALSE(IsSlabOfTiles(call));
}

}  // namespace
}  // namespace nibble::cuda

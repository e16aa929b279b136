// The tiled linear on the emulator: against float64 over dequantized weights, for every format,
// group and number of rows; its bits whatever the neighbours and the order of blocks; and what it
// asks of memory.
#include "kernels/cuda/tiled_linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "measured_error.h"
#include "tiled_world.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using quant::Format;

struct FormatCase {
  std::string name;
  quant::RandomSpec spec;
  DType dtype = DType::kBf16;
};

std::vector<FormatCase> FormatCases() {
  std::vector<FormatCase> cases;
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const std::string type = dtype == DType::kBf16 ? "Bf16" : "F16";
    for (const int group : {32, 64, 128}) {
      const std::string of_group = "OfGroup" + std::to_string(group) + type;
      for (const bool f16 : {true, false}) {
        const std::string name = (f16 ? "F16Scales" : "F32Scales") + of_group;
        quant::RandomSpec spec{.rows = 128, .cols = 384, .group = group, .f16_scales = f16};
        cases.push_back({"Int4" + name, spec, dtype});
        spec.offsets = true;
        cases.push_back({"Int4WithOffsets" + name, spec, dtype});
        spec.offsets = false;
        spec.format = Format::kLut4;
        spec.table = quant::RandomSpec::Table::kInteger;  // IQ4_NL's, exact in 16 bits
        cases.push_back({"Lut4" + name, spec, dtype});
      }
    }
  }
  // 8-bit codes of every other group; those of whole rows and blocks are among TiledFormats.
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const std::string type = dtype == DType::kBf16 ? "Bf16" : "F16";
    for (const int group : {16, 64, 128, 192}) {
      const std::string of_group = "OfGroup" + std::to_string(group) + type;
      quant::RandomSpec spec{
          .format = Format::kInt8, .rows = 128, .cols = 384, .group = group, .f16_scales = false};
      cases.push_back({"Int8" + of_group, spec, dtype});
      spec.offsets = true;
      cases.push_back({"Int8WithOffsets" + of_group, spec, dtype});
    }
  }
  // Tables that 16 bits round (NF4): f16 keeps them well, bf16 adds up to 2^-9 a weight, see the
  // case below.
  quant::RandomSpec any{.format = Format::kLut4, .rows = 128, .cols = 384, .group = 64};
  cases.push_back({"AnyTableF16", any, DType::kF16});
  quant::RandomSpec mxfp4{.format = Format::kLut4, .rows = 128, .cols = 384, .group = 32};
  mxfp4.table = quant::RandomSpec::Table::kHalves;
  mxfp4.e8m0_scales = true;
  cases.push_back({"PowersOfTwo", mxfp4});
  return cases;
}

class TiledFormatTest : public testing::TestWithParam<FormatCase> {};

TEST_P(TiledFormatTest, EqualsTheDequantizedProduct) {
  const Weight weight(GetParam().spec, 11);
  const double error = ErrorOf(weight, 5, GetParam().dtype);
  RecordProperty("error", std::to_string(error));
  if (GetParam().name == "AnyTableF16")
    Measured("tiled_linear", "Lut4AnyTable", DType::kF16, error);
  EXPECT_LT(error, kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Each, TiledFormatTest, testing::ValuesIn(FormatCases()),
                         [](const auto& info) { return info.param.name; });

TEST(TiledLinear, RoundsTheEntriesOfAnyTableToBf16) {
  const Weight weight({.format = Format::kLut4, .rows = 128, .cols = 384, .group = 64}, 11);
  const double error = ErrorOf(weight, 5, DType::kBf16);
  EXPECT_LT(Measured("tiled_linear", "Lut4AnyTable", DType::kBf16, error),
            3e-3);  // two roundings of up to 2^-9
}

// Columns first .. first + count - 1 of rows of `width`.
std::vector<uint16_t> ColumnsOf(const std::vector<uint16_t>& rows, int32_t width, int32_t first,
                                int32_t count) {
  std::vector<uint16_t> columns;
  for (auto row = rows.begin(); row != rows.end(); row += width)
    columns.insert(columns.end(), row + first, row + first + count);
  return columns;
}

// Into how many parts the products of a launch's rows of tiles are cut.
std::vector<int> PartsOf(const std::vector<const Weight*>& weights) {
  TiledLinear call{.num_weights = static_cast<int32_t>(weights.size())};
  for (size_t i = 0; i < weights.size(); ++i) call.weights[i].layout = weights[i]->layout();
  const TiledCut cut = CutOf(call);
  std::vector<int> parts;
  for (int32_t tile = 0; tile < cut.row_tiles * cut.col_tiles; tile += cut.col_tiles)
    parts.push_back(cut.StretchOf(tile + cut.col_tiles - 1) - cut.StretchOf(tile) + 1);
  return parts;
}

// Halves of very unlike sizes, whose products' sums are rounded.
std::vector<uint16_t> UnlikeHalves(DType dtype, size_t count) {
  std::vector<uint16_t> halves = RandomHalves(dtype, count, 4);
  std::mt19937 random(9);
  for (uint16_t& half : halves) {
    const float value = std::ldexp(ToFloat(dtype, half), static_cast<int>(random() % 19) - 12);
    half = dtype == DType::kF16 ? F32ToF16(value) : F32ToBf16(value);
  }
  return halves;
}

class TiledRowsTest : public testing::TestWithParam<TiledFormat> {
 protected:
  double Told(double error, DType dtype) const {
    return Measured("tiled_linear", GetParam().name, dtype, error);
  }
};

// Tails: rows of W that end within a tile, a warp, and four; columns that end within a tile.
TEST_P(TiledRowsTest, EqualsTheProductOnShapesWithTails) {
  for (const auto& [rows, cols] :
       {std::pair{1, 32}, std::pair{130, 96}, std::pair{37, 576}, std::pair{255, 160}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols);
    const Weight weight(GetParam().Of(rows, cols), 17);
    // As many results as it takes for their roundings to average out.
    EXPECT_LT(Told(ErrorOf(weight, rows == 1 ? 64 : 3, DType::kBf16), DType::kBf16), kTolerance);
    EXPECT_LT(Told(ErrorOf(weight, 9, DType::kF16), DType::kF16), kTolerance / 4);
  }
}

// Every number of rows, and one more than a block takes, in either type; x rows 1 .. n are those of
// the widest call, bit by bit.
TEST_P(TiledRowsTest, GivesARowTheSameBitsAmongAnyNumberOfRows) {
  const bool is_4bit = GetParam().is_4bit();
  const Weight weight(GetParam().Of(130, is_4bit ? 672 : 352), 23);
  ASSERT_EQ(PartsOf({&weight}), (std::vector<int>{2, 2}));
  constexpr int32_t kMost = 65;
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const std::vector<uint16_t> x = RandomHalves(dtype, size_t{kMost} * weight.cols(), 4);
    const std::vector<uint16_t> all = Multiply(weight, x, {.dtype = dtype});
    EXPECT_LT(Told(RelativeError(ToDoubles(dtype, all), weight.Times(dtype, x)), dtype),
              dtype == DType::kBf16 ? kTolerance : kTolerance / 4);
    for (int32_t rows = dtype == DType::kBf16 ? 1 : 2; rows < kMost; rows += 2) {
      const std::vector<uint16_t> few(x.end() - int64_t{rows} * weight.cols(),
                                      x.end());  // at other places, too
      const std::vector<uint16_t> expected(all.end() - int64_t{rows} * weight.rows(), all.end());
      ASSERT_EQ(Multiply(weight, few, {.dtype = dtype}), expected) << rows << " rows";
    }
  }
}

// Two and three matrices of unlike numbers of rows, with tails, in one launch: stretches go from
// one to the next, and a row of x gets the same bits among any.
TEST_P(TiledRowsTest, MultipliesWithSeveralMatricesInOneLaunch) {
  const bool is_4bit = GetParam().is_4bit();
  const int32_t cols = is_4bit ? 672 : 352;
  std::vector<Weight> weights;
  float table[16] = {};  // of lut4, of the first
  for (const int32_t rows : {260, 131, 37}) {
    quant::Matrix matrix = quant::RandomMatrix(GetParam().Of(rows, cols), 5);
    if (weights.empty()) std::copy_n(matrix.table, 16, table);
    std::copy_n(table, 16, matrix.table);
    weights.emplace_back(std::move(matrix));
  }
  ASSERT_TRUE(ShareALaunch(weights[0].layout(), weights[2].layout()));
  for (const int32_t count : {2, 3}) {
    std::vector<const Weight*> together;
    int32_t width = 0;
    for (int32_t i = 0; i < count; width += weights[i++].rows()) together.push_back(&weights[i]);
    ASSERT_THAT(PartsOf(together), testing::Contains(testing::Gt(1)));
    constexpr int32_t kMost = 66;
    const std::vector<uint16_t> x = RandomHalves(DType::kF16, size_t{kMost} * cols, 4);
    MultiplyOptions options{.dtype = DType::kF16, .calls = 2};
    options.y = RandomHalves(DType::kF16, static_cast<size_t>(kMost) * width, 5);
    for (const uint16_t half : RandomHalves(DType::kF16, width, 6))
      options.bias.push_back(ToFloat(DType::kF16, half));
    const std::vector<uint16_t> all = MultiplyTogether(together, x, options);
    for (int32_t i = 0, first = 0; i < count; first += weights[i++].rows()) {
      SCOPED_TRACE(testing::Message() << "matrix " << i << " of " << count);
      const int32_t rows = weights[i].rows();
      std::vector<double> expected = weights[i].Times(DType::kF16, x);
      const std::vector<uint16_t> before = ColumnsOf(options.y, width, first, rows);
      for (size_t at = 0; at < expected.size(); ++at)
        expected[at] += options.bias[first + at % rows] + ToFloat(DType::kF16, before[at]);
      EXPECT_LT(RelativeError(ToDoubles(DType::kF16, ColumnsOf(all, width, first, rows)), expected),
                kTolerance);
    }
    const std::vector<uint16_t> y = options.y;
    for (const int32_t rows : {1, 11, 29}) {
      options.y.assign(y.end() - int64_t{rows} * width, y.end());
      TheGpu().SetSeed(static_cast<uint32_t>(rows));
      EXPECT_EQ(MultiplyTogether(together, {x.end() - int64_t{rows} * cols, x.end()}, options),
                std::vector<uint16_t>(all.end() - int64_t{rows} * width, all.end()))
          << count << " matrices, " << rows << " rows";
      TheGpu().SetSeed(0);
    }
  }
}

// By warps and by warp groups, with the last rows of x in any tile; 64 columns of a group, and as
// many as a tile of 4-bit codes has.
TEST_P(TiledRowsTest, GivesTheSameBitsByWarpGroups) {
  const bool is_4bit = GetParam().is_4bit();
  for (const int group : {64, 128}) {
    TiledFormat format = GetParam();
    if (format.spec.group == 32) format.spec.group = group;
    const int32_t cols_of_4bit = group == 64 ? 704 : 768;
    const Weight weight(format.Of(150, is_4bit ? cols_of_4bit : 384), 23);
    ASSERT_EQ(PartsOf({&weight}), (std::vector<int>{2, 2}));
    for (const int32_t rows : {9, 17, 32, 33, 64, 66, 128, 130}) {
      if (!HasWarpGroups(weight.layout(), rows)) continue;
      const DType dtype = rows % 2 == 0 ? DType::kBf16 : DType::kF16;
      const std::vector<uint16_t> x =
          UnlikeHalves(dtype, static_cast<size_t>(rows) * weight.cols());
      EXPECT_EQ(Multiply(weight, x, {.dtype = dtype, .warp_groups = true}),
                Multiply(weight, x, {.dtype = dtype}))
          << rows << " rows, groups of " << group;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, TiledRowsTest, testing::ValuesIn(TiledFormats()),
                         [](const auto& info) { return info.param.name; });

TEST(TiledCut, IsEvenAndKnowsWhereATileIs) {
  for (const auto& [row_tiles, col_tiles, stretches] : {std::tuple{1, 5, 1},
                                                        {48, 32, 264},
                                                        {32, 32, 256},
                                                        {224, 32, 264},
                                                        {32, 112, 264},
                                                        {3, 7, 5},
                                                        {1002, 64, 264},
                                                        {63'000, 256, 264}}) {
    TiledLinear call;
    call.weights[0].layout = {
        .rows = row_tiles * kTileRows - 3, .cols = col_tiles * 128 - 7, .group = 128};
    const TiledCut cut = CutOf(call);
    EXPECT_EQ(cut.row_tiles, row_tiles);
    EXPECT_EQ(cut.col_tiles, col_tiles);
    EXPECT_EQ(cut.stretches, stretches);
    const int32_t tiles = row_tiles * col_tiles;
    EXPECT_EQ(cut.BeginOf(0), 0);
    EXPECT_EQ(cut.BeginOf(stretches), tiles);
    for (int32_t i = 0; i < stretches; ++i) {
      const int32_t begin = cut.BeginOf(i), end = cut.BeginOf(i + 1);
      EXPECT_THAT(end - begin, testing::AnyOf(tiles / stretches, tiles / stretches + 1));
      EXPECT_EQ(cut.StretchOf(begin), i);
      EXPECT_EQ(cut.StretchOf(end - 1), i);
    }
  }
}

TEST(TiledLinear, GivesTheSameBitsInEveryOrderOfBlocksAndThreads) {
  const Weight weight({.rows = 256, .cols = 1536, .group = 128, .offsets = true}, 29);
  ASSERT_EQ(PartsOf({&weight}), (std::vector<int>{3, 3}));
  const std::vector<uint16_t> x = RandomHalves(DType::kBf16, 3 * size_t{1536}, 5);
  const std::vector<uint16_t> expected = Multiply(weight, x);
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    TheGpu().SetSeed(seed);
    EXPECT_EQ(Multiply(weight, x, {.calls = 2}), expected) << "seed " << seed;
  }
  TheGpu().SetSeed(0);
}

// The warps of those go through a stretch each for itself, with any number of stages. Two
// of its rows of tiles end within a stretch, at 130 rows of x within a block's second one.
TEST(TiledLinear, GivesTheSameBitsByWarpGroupsOfAnyStages) {
  const Weight weight({.rows = 300, .cols = 1792, .group = 64, .offsets = true}, 29);
  for (const int32_t rows : {11, 40, 130}) {
    const std::vector<uint16_t> x = RandomHalves(DType::kF16, static_cast<size_t>(rows) * 1792, 5);
    const std::vector<uint16_t> expected = Multiply(weight, x, {.dtype = DType::kF16});
    for (const int32_t stages : {1, 2, 3, 0}) {
      TheGpu().SetSeed(static_cast<uint32_t>(stages + 1));
      EXPECT_EQ(
          Multiply(weight, x,
                   {.dtype = DType::kF16, .calls = 2, .warp_groups = true, .most_stages = stages}),
          expected)
          << rows << " rows, " << stages << " stages";
    }
  }
  TheGpu().SetSeed(0);
}

TEST(TiledLinear, AddsBiasAndAccumulates) {
  const Weight weight({.rows = 130, .cols = 128}, 31);
  const std::vector<uint16_t> x = RandomHalves(DType::kBf16, 2 * 128, 6);
  const std::vector<uint16_t> y = RandomHalves(DType::kBf16, 2 * 130, 7);
  std::vector<float> bias(130);
  for (int i = 0; i < 130; ++i) bias[i] = 0.01f * i;
  std::vector<double> expected = weight.Times(DType::kBf16, x);
  for (size_t i = 0; i < expected.size(); ++i)
    expected[i] += bias[i % 130] + ToFloat(DType::kBf16, y[i]);
  EXPECT_LT(
      RelativeError(ToDoubles(DType::kBf16, Multiply(weight, x, {.y = y, .bias = bias})), expected),
      kTolerance);
}

// A NaN stays in its row.
TEST(TiledLinear, KeepsRowsApart) {
  const Weight weight({.rows = 128, .cols = 256, .offsets = true}, 37);
  std::vector<uint16_t> x = RandomHalves(DType::kBf16, 3 * 256, 8);
  const std::vector<uint16_t> clean = Multiply(weight, x);
  x[256 + 7] = F32ToBf16(NAN);
  const std::vector<uint16_t> dirty = Multiply(weight, x);
  for (int i = 0; i < 3 * 128; ++i) {
    if (i / 128 == 1) {
      EXPECT_TRUE(std::isnan(Bf16ToF32(dirty[i])));
    } else {
      EXPECT_EQ(dirty[i], clean[i]);
    }
  }
}

TEST(TiledLinear, RefusesCallsItWouldGetWrong) {
  const Weight weight({.rows = 128, .cols = 640}, 1);
  const DeviceArray<uint16_t> x(std::vector<uint16_t>(1280, 0)), y(128);
  TiledLinear good{.x = x.data(), .x_stride = 640, .y_stride = 128, .rows = 1};
  good.weights[0] = {.layout = weight.layout(), .tiles = weight.data(), .y = y.data()};
  const DeviceArray<uint8_t> workspace(static_cast<size_t>(TiledWorkspaceBytes(good)));
  good.workspace = workspace.data();
  const auto error = [&](auto change) {
    TiledLinear call = good;
    change(call);
    return LaunchTiledLinear(call, nullptr);
  };
  EXPECT_EQ(error([&](TiledLinear& c) { c.x = x.data() + 1; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.x_stride = 644; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.workspace = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.weights[0].layout.offsets = true; }),
            cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.weights[0].layout.group = 16; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.num_weights = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](TiledLinear& c) { c.num_weights = kMostTiledWeights + 1; }),
            cudaErrorInvalidValue);
  // A second matrix that is alike is welcome; each of these is not.
  const auto second_error = [&](auto change) {
    return error([&](TiledLinear& c) {
      c.weights[1] = c.weights[0];
      c.weights[1].layout.rows = 1;  // as many splits as it has with 128 rows
      c.num_weights = 2;
      change(c.weights[1]);
    });
  };
  const auto misaligned = static_cast<const void*>(weight.data() + 8);
  EXPECT_EQ(second_error([&](TiledWeight& w) { w.tiles = misaligned; }), cudaErrorInvalidValue);
  EXPECT_EQ(second_error([](TiledWeight& w) { w.layout.cols = 512; }), cudaErrorInvalidValue);
  EXPECT_EQ(second_error([](TiledWeight& w) { w.layout.zero = 8; }), cudaErrorInvalidValue);
  EXPECT_EQ(second_error([](TiledWeight& w) { w.layout.group = 64; }), cudaErrorInvalidValue);
  EXPECT_EQ(second_error([](TiledWeight& w) { w.layout.codes = TiledCodes::kLut4; }),
            cudaErrorInvalidValue);
}

// Every variant fits the 99 KB of shared memory that sm_89 gives a block.
TEST(TiledLinear, FitsTheSmallestDevice) {
  std::vector<TiledFormat> formats = TiledFormats();
  formats.push_back({"Widest", {.format = Format::kInt8, .group = 16, .offsets = true}});
  for (const TiledFormat& format : formats) {
    const Weight weight(format.Of(128, 128), 1);
    for (const int32_t rows : {8, 16, 32, 64}) {
      TheGpu().ResetCounts();
      Multiply(weight, RandomHalves(DType::kBf16, static_cast<size_t>(rows) * 128, 2));
      EXPECT_LE(TheGpu().counts().shared_bytes, 99u * 1024) << format.name << ", " << rows;
    }
  }
}

class TiledCountsTest : public testing::TestWithParam<TiledFormat> {
 protected:
  // What a product of a matrix of 256 x 1024 asks of memory, by the emulator's counters: held to
  // the kernel's budgets. Of its blocks a multiprocessor of an H100 holds `most` by registers
  // (kernels/cuda/budgets.json) and some by shared memory, of which each costs 1 KB more, and a
  // launch has two for each.
  static void HoldCounts(const TiledFormat& format, int32_t rows, bool warp_groups, uint64_t most) {
    const Weight weight(format.Of(256, 1024), 41);
    const std::vector<uint16_t> x = RandomHalves(DType::kBf16, static_cast<size_t>(rows) * 1024, 9);
    TheGpu().ResetCounts();
    Multiply(weight, x, {.warp_groups = warp_groups});
    const emulator::Counts counts = TheGpu().counts();
    SCOPED_TRACE(testing::Message()
                 << rows << " rows: " << counts.global_read_bytes << " bytes read, "
                 << counts.bytes_in_flight << " in flight, worst conflict at code " << std::hex
                 << counts.worst_conflict_site);
    EXPECT_LE(counts.GlobalExcess(), 1.03);
    EXPECT_EQ(counts.bank_conflicts, 0u);
    const uint64_t row_tiles = rows == 1 ? 1 : rows / 8;
    EXPECT_EQ(counts.mmas, 256 / 16 * 1024 / 16 * row_tiles);
    const uint64_t by_shared = 228 * 1024 / (counts.shared_bytes + 1024);
    const uint64_t blocks = std::min({uint64_t{2}, most, by_shared});
    EXPECT_EQ(blocks, std::min(uint64_t{2}, most));
    EXPECT_GE(counts.bytes_in_flight * blocks, 64u * 1024);
    std::printf("%-14s %3d rows%s: %.3f of the bytes, %llu KB in flight a block, %llu blocks\n",
                format.name.c_str(), rows, warp_groups ? ", warp groups" : "",
                counts.GlobalExcess(),
                static_cast<unsigned long long>(counts.bytes_in_flight / 1024),
                static_cast<unsigned long long>(blocks));
    if (warp_groups) {
      EXPECT_EQ(counts.matrix_loads, 0u);
      // Of a stage one copy of the tile, one of x for each 64 columns, one of sums for each group.
      const TiledLayout& layout = weight.layout();
      const int32_t cols = TileCols(layout.codes), sums = layout.offsets ? cols / layout.group : 0;
      const int32_t stages = RowTiles(layout) * ColTiles(layout);
      EXPECT_EQ(counts.bulk_copies, static_cast<uint64_t>(stages * (1 + cols / 64 + sums)));
    } else {
      EXPECT_EQ(counts.bulk_copies, 0u);
    }
  }
};

TEST_P(TiledCountsTest, AsksForTheBytesItNeedsWithoutConflicts) {
  HoldCounts(GetParam(), 1, false, 5);
  HoldCounts(GetParam(), 16, false, 4);
  HoldCounts(GetParam(), 32, false, 3);
  HoldCounts(GetParam(), 64, false, 2);
}

TEST_P(TiledCountsTest, AsksForTheSameByWarpGroups) {
  TiledFormat format = GetParam();
  if (format.spec.group != 0) format.spec.group = 128;
  if (format.is_4bit()) HoldCounts(format, 16, true, 2);
  HoldCounts(format, 32, true, 2);
  HoldCounts(format, 64, true, 2);
  HoldCounts(format, 128, true, 1);
  if (format.spec.format == Format::kFp8 || format.spec.group == 0) return;
  format.spec.group = 64;  // the most bytes of scales, and of sums, a stage
  HoldCounts(format, 64, true, 2);
  HoldCounts(format, 128, true, 1);
}

INSTANTIATE_TEST_SUITE_P(Each, TiledCountsTest, testing::ValuesIn(TiledFormats()),
                         [](const auto& info) { return info.param.name; });

// Beside each other matrices ask for what they ask for apart, x again for each row of tiles.
TEST(TiledLinear, AsksForTheSameBytesInOneLaunchAsApart) {
  const Weight q({.rows = 256, .cols = 1024, .group = 128, .offsets = true}, 1);
  const Weight k({.rows = 128, .cols = 1024, .group = 128, .offsets = true}, 2);
  for (const int32_t rows : {1, 64}) {
    const std::vector<uint16_t> x = RandomHalves(DType::kF16, static_cast<size_t>(rows) * 1024, 9);
    const auto counts_of = [&](const std::vector<const Weight*>& weights) {
      TheGpu().ResetCounts();
      MultiplyTogether(weights, x, {.dtype = DType::kF16});
      return TheGpu().counts();
    };
    const emulator::Counts both = counts_of({&q, &k}), of_q = counts_of({&q}),
                           of_k = counts_of({&k});
    EXPECT_EQ(both.launches, 1u);
    EXPECT_EQ(both.global_read_bytes, of_q.global_read_bytes + of_k.global_read_bytes);
    EXPECT_EQ(both.mmas, of_q.mmas + of_k.mmas);
    EXPECT_LE(both.GlobalExcess(), 1.03);
    EXPECT_EQ(both.bank_conflicts, 0u);
  }
}

TEST(TiledLinear, WritesF32) {
  for (const int32_t rows : {130, 132}) {  // rows of y that are no multiple of 16 bytes, and some
    const Weight weight({.format = Format::kInt8, .rows = rows, .cols = 128}, 31);
    const std::vector<uint16_t> x = RandomHalves(DType::kF16, 3 * 128, 6);
    const DeviceArray<uint16_t> device_x(x);
    const DeviceArray<float> y(static_cast<size_t>(3) * rows);
    TiledLinear call{.dtype = DType::kF16};
    call.weights[0] = {.layout = weight.layout(), .tiles = weight.data(), .y = y.data()};
    call.x = device_x.data();
    call.x_stride = 128;
    call.f32_y = true;
    call.y_stride = rows;
    call.rows = 3;
    const DeviceArray<uint8_t> workspace(
        std::vector<uint8_t>(static_cast<size_t>(TiledWorkspaceBytes(call)), 0));
    call.workspace = workspace.data();
    ASSERT_EQ(LaunchTiledLinear(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
    const std::vector<float> got = y.Read();
    EXPECT_LT(RelativeError({got.begin(), got.end()}, weight.Times(DType::kF16, x)), 1e-6);
    call.accumulate = true;
    ASSERT_EQ(LaunchTiledLinear(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
    const std::vector<float> twice = y.Read();
    for (size_t i = 0; i < got.size(); ++i) EXPECT_FLOAT_EQ(twice[i], 2 * got[i]);
  }
}

}  // namespace
}  // namespace nibble::cuda

// The W4 kernel on the emulator: against float64 over dequantized weights, for every format, group
// and number of rows; its bits whatever the neighbours and the order of blocks; and what it asks of
// memory.
#include "kernels/cuda/w4_linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/w4_pack.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using quant::Format;

// One matrix on the device, ready to be multiplied by any rows.
class Weight {
 public:
  Weight(const quant::RandomSpec& spec, uint32_t seed)
      : matrix_(quant::RandomMatrix(spec, seed)),
        packed_(PackW4(matrix_).value()),
        bytes_(packed_.bytes) {
    std::vector<float> row(matrix_.cols);
    for (int32_t n = 0; n < matrix_.rows; ++n) {
      quant::DequantizeRow(matrix_, n, row.data());
      values_.insert(values_.end(), row.begin(), row.end());
    }
  }
  const W4Layout& layout() const { return packed_.layout; }
  int32_t rows() const { return matrix_.rows; }
  int32_t cols() const { return matrix_.cols; }
  const uint8_t* data() const { return bytes_.data(); }

  std::vector<double> Times(DType type, const std::vector<uint16_t>& x) const {
    const size_t tokens = x.size() / cols();
    std::vector<double> y(tokens * rows());
    for (size_t t = 0; t < tokens; ++t) {
      std::vector<float> row(cols());
      for (int32_t k = 0; k < cols(); ++k) row[k] = ToFloat(type, x[t * cols() + k]);
      for (int32_t n = 0; n < rows(); ++n) {
        double sum = 0;
        for (int32_t k = 0; k < cols(); ++k)
          sum += double{row[k]} * values_[int64_t{n} * cols() + k];
        y[t * rows() + n] = sum;
      }
    }
    return y;
  }

 private:
  quant::Matrix matrix_;
  W4Packed packed_;
  DeviceArray<uint8_t> bytes_;
  std::vector<float> values_;
};

struct Options {
  DType dtype = DType::kBf16;
  std::vector<uint16_t> y;  // accumulated onto, where not empty
  std::vector<float> bias;
  int calls = 1;  // with one workspace
};

std::vector<uint16_t> Multiply(const Weight& weight, const std::vector<uint16_t>& x,
                               const Options& options = {}) {
  const int32_t rows = static_cast<int32_t>(x.size() / weight.cols());
  const DeviceArray<uint16_t> device_x(x);
  DeviceArray<uint16_t> y(static_cast<size_t>(rows) * weight.rows());
  const int64_t workspace_bytes = W4WorkspaceBytes(weight.layout(), rows);
  const DeviceArray<uint8_t> workspace(static_cast<size_t>(workspace_bytes) + 1);
  cudaMemset(workspace.data(), 0,
             static_cast<size_t>(W4CounterBytes(weight.layout(), rows)) * (workspace_bytes > 0));
  std::optional<DeviceArray<float>> bias;
  if (!options.bias.empty()) bias.emplace(options.bias);
  W4Linear call{.layout = weight.layout(), .weights = weight.data(), .dtype = options.dtype};
  call.x = device_x.data();
  call.x_stride = weight.cols();
  call.y = y.data();
  call.y_stride = weight.rows();
  call.rows = rows;
  call.bias = bias.has_value() ? bias->data() : nullptr;
  call.workspace = workspace_bytes > 0 ? workspace.data() : nullptr;
  const DeviceArray<float> sums(static_cast<size_t>(W4GroupSumsGroups(call.layout)) *
                                W4GroupSumsStride(rows));
  if (call.layout.offsets) {
    EXPECT_EQ(LaunchGroupSums(call, sums.data(), nullptr), cudaSuccess) << TheGpu().TakeFault();
    call.group_sums = sums.data();
  }
  for (int i = 0; i < options.calls; ++i) {
    if (!options.y.empty()) {
      y.Write(options.y);
      call.accumulate = true;
    }
    EXPECT_EQ(LaunchW4Linear(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  }
  return y.Read();
}

double ErrorOf(const Weight& weight, int32_t rows, DType dtype) {
  const std::vector<uint16_t> x = RandomHalves(dtype, static_cast<size_t>(rows) * weight.cols(), 3);
  return RelativeError(ToDoubles(dtype, Multiply(weight, x, {.dtype = dtype})),
                       weight.Times(dtype, x));
}

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

class W4FormatTest : public testing::TestWithParam<FormatCase> {};

TEST_P(W4FormatTest, EqualsTheDequantizedProduct) {
  const Weight weight(GetParam().spec, 11);
  const double error = ErrorOf(weight, 5, GetParam().dtype);
  RecordProperty("error", std::to_string(error));
  EXPECT_LT(error, kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Each, W4FormatTest, testing::ValuesIn(FormatCases()),
                         [](const auto& info) { return info.param.name; });

TEST(W4Linear, RoundsTheEntriesOfAnyTableToBf16) {
  const Weight weight({.format = Format::kLut4, .rows = 128, .cols = 384, .group = 64}, 11);
  EXPECT_LT(ErrorOf(weight, 5, DType::kBf16), 3e-3);  // two roundings of up to 2^-9
}

// Tails: rows of W that end within a tile, a warp, and four; columns that end within a tile.
TEST(W4Linear, EqualsTheProductOnShapesWithTails) {
  for (const auto& [rows, cols] :
       {std::pair{1, 32}, std::pair{130, 96}, std::pair{37, 576}, std::pair{255, 160}}) {
    for (const bool offsets : {false, true}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols << (offsets ? " with offsets" : ""));
      const Weight weight({.rows = rows, .cols = cols, .offsets = offsets}, 17);
      // As many results as it takes for their roundings to average out.
      EXPECT_LT(ErrorOf(weight, rows == 1 ? 64 : 3, DType::kBf16), kTolerance);
      EXPECT_LT(ErrorOf(weight, 9, DType::kF16), kTolerance);
    }
  }
}

// Every number of rows, and one more than a block takes; x rows 1 .. n are those of the widest
// call, bit by bit.
TEST(W4Linear, GivesARowTheSameBitsAmongAnyNumberOfRows) {
  const Weight weight({.rows = 144, .cols = 640, .group = 64, .offsets = true}, 23);
  ASSERT_GT(W4Splits(weight.layout()), 1);
  constexpr int32_t kMost = 65;
  const std::vector<uint16_t> x = RandomHalves(DType::kBf16, size_t{kMost} * weight.cols(), 4);
  const std::vector<uint16_t> all = Multiply(weight, x);
  EXPECT_LT(RelativeError(ToDoubles(DType::kBf16, all), weight.Times(DType::kBf16, x)), kTolerance);
  for (int32_t rows = 1; rows < kMost; ++rows) {
    const std::vector<uint16_t> few(x.end() - int64_t{rows} * weight.cols(),
                                    x.end());  // at other places, too
    const std::vector<uint16_t> expected(all.end() - int64_t{rows} * weight.rows(), all.end());
    ASSERT_EQ(Multiply(weight, few), expected) << rows << " rows";
  }
}

TEST(W4Linear, GivesTheSameBitsInEveryOrderOfBlocksAndThreads) {
  const Weight weight({.rows = 256, .cols = 1536, .group = 128, .offsets = true}, 29);
  ASSERT_EQ(W4Splits(weight.layout()), 3);
  const std::vector<uint16_t> x = RandomHalves(DType::kBf16, 3 * size_t{1536}, 5);
  const std::vector<uint16_t> expected = Multiply(weight, x);
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    TheGpu().SetSeed(seed);
    EXPECT_EQ(Multiply(weight, x, {.calls = 2}), expected) << "seed " << seed;
  }
  TheGpu().SetSeed(0);
}

TEST(W4Linear, AddsBiasAndAccumulates) {
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
TEST(W4Linear, KeepsRowsApart) {
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

TEST(W4Linear, RefusesCallsItWouldGetWrong) {
  const Weight weight({.rows = 128, .cols = 640}, 1);
  const DeviceArray<uint16_t> x(std::vector<uint16_t>(1280, 0)), y(128);
  const DeviceArray<uint8_t> workspace(static_cast<size_t>(W4WorkspaceBytes(weight.layout(), 1)));
  const W4Linear good{.layout = weight.layout(),
                      .weights = weight.data(),
                      .x = x.data(),
                      .x_stride = 640,
                      .y = y.data(),
                      .y_stride = 128,
                      .rows = 1,
                      .workspace = workspace.data()};
  const auto error = [&](auto change) {
    W4Linear call = good;
    change(call);
    return LaunchW4Linear(call, nullptr);
  };
  EXPECT_EQ(error([&](W4Linear& c) { c.x = x.data() + 1; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](W4Linear& c) { c.x_stride = 644; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](W4Linear& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](W4Linear& c) { c.workspace = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](W4Linear& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](W4Linear& c) { c.layout.offsets = true; }), cudaErrorInvalidValue);
}

// Every variant fits the 99 KB of shared memory that sm_89 gives a block.
TEST(W4Linear, FitsTheSmallestDevice) {
  for (const int32_t rows : {8, 16, 32, 64}) {
    quant::RandomSpec spec{
        .rows = 128, .cols = 128, .group = 32, .offsets = true, .f16_scales = false};
    TheGpu().ResetCounts();
    Multiply(Weight(spec, 1), RandomHalves(DType::kBf16, static_cast<size_t>(rows) * 128, 2));
    EXPECT_LE(TheGpu().counts().shared_bytes, 99u * 1024) << rows;
  }
}

// What the kernel asks of memory, by the emulator's counters: its budgets.
TEST(W4Linear, AsksForTheBytesItNeedsWithoutConflicts) {
  for (const int32_t rows : {1, 16, 64}) {
    const Weight weight({.rows = 256, .cols = 1024, .group = 128}, 41);
    const std::vector<uint16_t> x = RandomHalves(DType::kBf16, static_cast<size_t>(rows) * 1024, 9);
    TheGpu().ResetCounts();
    Multiply(weight, x);
    const emulator::Counts counts = TheGpu().counts();
    SCOPED_TRACE(testing::Message()
                 << rows << " rows: " << counts.global_read_bytes << " bytes read, "
                 << counts.bytes_in_flight << " in flight, worst conflict at code " << std::hex
                 << counts.worst_conflict_site);
    EXPECT_LE(counts.GlobalExcess(), 1.03);
    EXPECT_EQ(counts.bank_conflicts, 0u);
    const uint64_t tiles = 2 * 8, row_tiles = rows == 1 ? 1 : rows / 8;
    EXPECT_EQ(counts.mmas, tiles * 64 * row_tiles);  // 128 x 128 by 16 x 16
    // The occupancy plan of kernels/cuda/budgets.json: blocks that an H100's multiprocessor holds.
    const uint64_t blocks = rows == 1 ? 5 : (rows == 16 ? 4 : 2);
    EXPECT_LE(blocks * (counts.shared_bytes + 1024), 228u * 1024);  // each block costs 1 KB more
    RecordProperty("bytes_in_flight_" + std::to_string(rows),
                   std::to_string(counts.bytes_in_flight));
    EXPECT_GE(counts.bytes_in_flight * blocks, 64u * 1024);
  }
}

}  // namespace
}  // namespace nibble::cuda

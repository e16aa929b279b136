// Rows to 8-bit codes on the emulator: each code the nearest one to its value by its row's (or
// block's) scale, rows that are zeros or not finite, and what is refused.
#include "kernels/cuda/quantize_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/fp8.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

Quantized Quantize(DType dtype, RowCodes codes, const std::vector<uint16_t>& x, int32_t rows) {
  const auto cols = static_cast<int32_t>(x.size()) / rows;
  const DeviceArray<uint16_t> device_x(x);
  const DeviceArray<uint8_t> out(x.size());
  const bool has_blocks = codes == RowCodes::kE4m3Blocks;
  const DeviceArray<float> scales(static_cast<size_t>(rows) *
                                  (has_blocks ? cols / kScaleBlock : 1));
  const QuantizeRowsCall call{.dtype = dtype,
                              .codes = codes,
                              .rows = rows,
                              .cols = cols,
                              .x = device_x.data(),
                              .x_stride = cols,
                              .out = out.data(),
                              .scales = scales.data()};
  EXPECT_EQ(LaunchQuantizeRows(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  return {out.Read(), scales.Read()};
}

float ValueOf(RowCodes codes, uint8_t code) {
  return codes == RowCodes::kInt8 ? static_cast<int8_t>(code) : E4m3ToF32(code);
}

// No other code lies nearer to x / scale than `code` does, but for the rounding of the quotient.
void ExpectNearest(RowCodes codes, double x, float scale, uint8_t code) {
  const double distance = std::abs(x / scale - ValueOf(codes, code));
  for (int other = 0; other < 256; ++other) {
    const float value = ValueOf(codes, static_cast<uint8_t>(other));
    if (std::isnan(value) || value < -448) continue;
    if (codes == RowCodes::kInt8 && value < -127) continue;
    ASSERT_LE(distance, std::abs(x / scale - value) + 1e-4) << x << " by " << scale;
  }
}

using Case = std::tuple<DType, RowCodes, int32_t>;
class QuantizeRowsTest : public testing::TestWithParam<Case> {};

TEST_P(QuantizeRowsTest, TakesTheNearestCodeOfTheLargestScale) {
  const auto [dtype, codes, cols] = GetParam();
  constexpr int32_t kRows = 3;
  const bool has_blocks = codes == RowCodes::kE4m3Blocks;
  std::vector<uint16_t> x = RandomHalves(dtype, size_t{kRows} * cols, 3, 2.0f);
  for (int32_t c = 0; c < cols; ++c) x[c] = ToHalf(dtype, ToFloat(dtype, x[c]) * 100);
  const Quantized got = Quantize(dtype, codes, x, kRows);
  const int32_t group = has_blocks ? kScaleBlock : cols;
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t first = 0; first < cols; first += group) {
      double largest = 0;
      for (int32_t c = first; c < first + group; ++c)
        largest = std::max(largest, std::abs(double{ToFloat(dtype, x[row * cols + c])}));
      const float scale = got.scales[first / group * kRows + row];
      ASSERT_FLOAT_EQ(scale, largest / (codes == RowCodes::kInt8 ? 127 : 448));
      for (int32_t c = first; c < first + group; ++c)
        ExpectNearest(codes, ToFloat(dtype, x[row * cols + c]), scale, got.codes[row * cols + c]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Each, QuantizeRowsTest,
                         testing::Combine(testing::Values(DType::kBf16, DType::kF16),
                                          testing::Values(RowCodes::kInt8, RowCodes::kE4m3,
                                                          RowCodes::kE4m3Blocks),
                                          testing::Values(128, 640, 2176)));

TEST(QuantizeRows, TakesColumnsThatEndWithinALoop) {
  const std::vector<uint16_t> x = RandomHalves(DType::kF16, 2 * 2064, 4);
  const Quantized got = Quantize(DType::kF16, RowCodes::kInt8, x, 2);
  for (int32_t i = 0; i < 2 * 2064; ++i)
    ExpectNearest(RowCodes::kInt8, ToFloat(DType::kF16, x[i]), got.scales[i / 2064], got.codes[i]);
}

// A NaN or an infinity makes the scale NaN, zeros stay zeros, and neither reaches another row.
TEST(QuantizeRows, NeverHidesWhatIsNotFinite) {
  for (const RowCodes codes : {RowCodes::kInt8, RowCodes::kE4m3, RowCodes::kE4m3Blocks}) {
    std::vector<uint16_t> x = RandomHalves(DType::kBf16, 4 * 128, 5);
    x[128 + 7] = F32ToBf16(NAN);
    x[256 + 100] = F32ToBf16(-INFINITY);
    for (int32_t c = 0; c < 128; ++c) x[384 + c] = 0;
    const Quantized got = Quantize(DType::kBf16, codes, x, 4);
    EXPECT_TRUE(std::isfinite(got.scales[0]));
    EXPECT_TRUE(std::isnan(got.scales[1]) && std::isnan(got.scales[2]));
    EXPECT_EQ(got.scales[3], 0);
    for (int32_t c = 0; c < 128; ++c) EXPECT_EQ(got.codes[384 + c], 0);
    const std::vector<uint16_t> first(x.begin(), x.begin() + 128);
    const Quantized alone = Quantize(DType::kBf16, codes, first, 1);
    EXPECT_EQ(alone.codes, std::vector<uint8_t>(got.codes.begin(), got.codes.begin() + 128));
    EXPECT_EQ(alone.scales[0], got.scales[0]);
  }
}

// Zeros behind the last row, for a GEMM that takes rows in fours.
TEST(QuantizeRows, WritesRowsOfZerosBehindBlocks) {
  const std::vector<uint16_t> x = RandomHalves(DType::kF16, 3 * 256, 6);
  const Quantized rows = Quantize(DType::kF16, RowCodes::kE4m3Blocks, x, 3);
  const DeviceArray<uint16_t> device_x(x);
  const DeviceArray<uint8_t> out(4 * 256);
  const DeviceArray<float> scales(4 * 2);
  const QuantizeRowsCall call{.dtype = DType::kF16,
                              .codes = RowCodes::kE4m3Blocks,
                              .rows = 3,
                              .cols = 256,
                              .zero_rows = 1,
                              .x = device_x.data(),
                              .x_stride = 256,
                              .out = out.data(),
                              .scales = scales.data()};
  ASSERT_EQ(LaunchQuantizeRows(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  std::vector<uint8_t> codes = rows.codes;
  codes.resize(4 * 256, 0);
  EXPECT_EQ(out.Read(), codes);
  for (int32_t i = 0; i < 8; ++i) {
    EXPECT_EQ(scales.Read()[i], i % 4 == 3 ? 0 : rows.scales[i / 4 * 3 + i % 4]) << i;
  }
}

TEST(QuantizeRows, RefusesCallsItWouldGetWrong) {
  const DeviceArray<uint16_t> x(std::vector<uint16_t>(256, 0));
  const DeviceArray<uint8_t> out(256);
  const DeviceArray<float> scales(2);
  const QuantizeRowsCall good{.rows = 1,
                              .cols = 128,
                              .x = x.data(),
                              .x_stride = 128,
                              .out = out.data(),
                              .scales = scales.data()};
  const auto error = [&](auto change) {
    QuantizeRowsCall call = good;
    change(call);
    return LaunchQuantizeRows(call, nullptr);
  };
  EXPECT_EQ(error([](QuantizeRowsCall&) {}), cudaSuccess);
  EXPECT_EQ(error([](QuantizeRowsCall& c) { c.cols = 120; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](QuantizeRowsCall& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](QuantizeRowsCall& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](QuantizeRowsCall& c) { c.scales = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](QuantizeRowsCall& c) { c.x = x.data() + 1; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](QuantizeRowsCall& c) { c.zero_rows = 1; }), cudaErrorInvalidValue);
  const auto of_blocks = [](QuantizeRowsCall& c) {
    c.codes = RowCodes::kE4m3Blocks;
    c.cols = 64;
  };
  EXPECT_EQ(error(of_blocks), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda

// A norm that quantizes within its launch, on the emulator: the bits of the two launches that it
// stands for, for every kind of codes, both types, rows with tails and values that are not finite.
#include "kernels/cuda/norm_codes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

constexpr float kEpsilon = 1e-5f;
constexpr uint16_t kUntouched = 0x5555;

// What the two launches, or the one, leave behind.
struct Left {
  std::vector<uint16_t> out, residual;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

// NaN for NaN.
std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float x : values)
    bits.push_back(std::isnan(x) ? 0x7FC00000u : std::bit_cast<uint32_t>(x));
  return bits;
}

void ExpectSame(const Left& got, const Left& expected) {
  EXPECT_EQ(got.out, expected.out);
  EXPECT_EQ(got.residual, expected.residual);
  EXPECT_EQ(got.codes, expected.codes);
  EXPECT_EQ(Bits(got.scales), Bits(expected.scales));
}

class World {
 public:
  World(DType dtype, RowCodes codes, int32_t cols, std::vector<uint16_t> x)
      : dtype_(dtype),
        codes_(codes),
        cols_(cols),
        rows_(static_cast<int32_t>(x.size()) / cols),
        x_(std::move(x)),
        weight_(Weights(cols)) {}
  World& WithResidual(const std::vector<uint16_t>& residual) {
    residual_ = residual;
    return *this;
  }

  // As two launches; with `one` as one, which writes 16-bit rows only if `rows_too`.
  Left Run(bool one, bool rows_too = true) const {
    const bool has_blocks = codes_ == RowCodes::kE4m3Blocks;
    const int32_t padded = has_blocks ? (rows_ + 3) / 4 * 4 : rows_;
    const DeviceArray<uint16_t> x(x_), out(std::vector<uint16_t>(x_.size(), kUntouched));
    const DeviceArray<uint16_t> residual(residual_.empty() ? x_ : residual_);
    const DeviceArray<float> weight(weight_);
    const DeviceArray<float> scales(static_cast<size_t>(padded) *
                                    (has_blocks ? cols_ / kScaleBlock : 1));
    const DeviceArray<uint8_t> codes(static_cast<size_t>(padded) * cols_);
    RmsNormCall norm{.dtype = dtype_, .rows = rows_, .cols = cols_, .x = x.data()};
    norm.x_stride = norm.out_stride = cols_;
    if (!residual_.empty()) {
      norm.residual = residual.data();
      norm.residual_stride = cols_;
    }
    norm.weight = weight.data();
    norm.epsilon = kEpsilon;
    norm.out = one && !rows_too ? nullptr : out.data();
    QuantizeRowsCall quantize{.codes = codes_, .zero_rows = padded - rows_};
    quantize.out = codes.data();
    quantize.scales = scales.data();
    if (one) {
      EXPECT_EQ(LaunchNormCodes(norm, quantize, nullptr), cudaSuccess) << TheGpu().TakeFault();
    } else {
      EXPECT_EQ(LaunchRmsNorm(norm, nullptr), cudaSuccess) << TheGpu().TakeFault();
      quantize.dtype = dtype_;
      quantize.rows = rows_;
      quantize.cols = cols_;
      quantize.x = out.data();
      quantize.x_stride = cols_;
      EXPECT_EQ(LaunchQuantizeRows(quantize, nullptr), cudaSuccess) << TheGpu().TakeFault();
    }
    return {out.Read(), residual.Read(), codes.Read(), scales.Read()};
  }

 private:
  static std::vector<float> Weights(int32_t n) {
    std::vector<float> weights(n);
    for (int32_t i = 0; i < n; ++i) weights[i] = 1 + 0.01f * (i % 7 - 3);
    return weights;
  }

  const DType dtype_;
  const RowCodes codes_;
  const int32_t cols_, rows_;
  const std::vector<uint16_t> x_;
  const std::vector<float> weight_;
  std::vector<uint16_t> residual_;
};

// Columns of whole blocks, and where a row has one scale also some that end within a loop.
std::vector<int32_t> Columns(RowCodes codes) {
  if (codes == RowCodes::kE4m3Blocks) return {128, 640, 2176};
  return {16, 144, 1040, 2064};
}

class NormCodesTest : public testing::TestWithParam<std::tuple<DType, RowCodes>> {};

TEST_P(NormCodesTest, WritesTheBitsOfTwoLaunchesOnRowsWithTails) {
  const auto [dtype, codes] = GetParam();
  for (const int32_t cols : Columns(codes)) {
    SCOPED_TRACE(testing::Message() << cols << " columns");
    const size_t size = 3 * static_cast<size_t>(cols);
    World world(dtype, codes, cols, RandomHalves(dtype, size, 1, 2.0f));
    const Left expected = world.Run(/*one=*/false);
    ExpectSame(world.Run(/*one=*/true), expected);
    world.WithResidual(RandomHalves(dtype, size, 2));
    ExpectSame(world.Run(/*one=*/true), world.Run(/*one=*/false));
  }
}

TEST_P(NormCodesTest, LeavesOutRowsThatNobodyReads) {
  const auto [dtype, codes] = GetParam();
  const World world(dtype, codes, 256, RandomHalves(dtype, 5 * 256, 3));
  Left expected = world.Run(/*one=*/false);
  expected.out.assign(expected.out.size(), kUntouched);
  ExpectSame(world.Run(/*one=*/true, /*rows_too=*/false), expected);
}

// A NaN reaches its row's scales, zeros stay zeros, and neither reaches another row.
TEST_P(NormCodesTest, KeepsWhatIsNotFiniteInItsRow) {
  const auto [dtype, codes] = GetParam();
  std::vector<uint16_t> x = RandomHalves(dtype, 4 * 256, 5);
  x[256 + 7] = ToHalf(dtype, NAN);
  x[512 + 200] = ToHalf(dtype, -INFINITY);
  for (int32_t c = 0; c < 256; ++c) x[768 + c] = 0;
  const World world(dtype, codes, 256, x);
  const Left got = world.Run(/*one=*/true);
  const Left expected = world.Run(/*one=*/false);
  EXPECT_EQ(got.codes, expected.codes);
  EXPECT_EQ(Bits(got.scales), Bits(expected.scales));
  EXPECT_TRUE(std::isfinite(got.scales[0]));
  EXPECT_TRUE(std::isnan(got.scales[1]));
  EXPECT_EQ(got.scales[3], 0);
}

INSTANTIATE_TEST_SUITE_P(Each, NormCodesTest,
                         testing::Combine(testing::Values(DType::kBf16, DType::kF16),
                                          testing::Values(RowCodes::kInt8, RowCodes::kE4m3,
                                                          RowCodes::kE4m3Blocks)));

// Whole sectors, weights included; the codes' and the scales' own bytes among them.
TEST(NormCodes, AskForNoByteTheyDoNotNeed) {
  for (const RowCodes codes : {RowCodes::kInt8, RowCodes::kE4m3, RowCodes::kE4m3Blocks}) {
    const World world(DType::kBf16, codes, 4096, RandomHalves(DType::kBf16, 4 * 4096, 1));
    TheGpu().ResetCounts();
    world.Run(/*one=*/true, /*rows_too=*/false);
    EXPECT_EQ(TheGpu().counts().launches, 1u);
    // A block's scale is 4 bytes of a sector, 32 times a row here.
    EXPECT_LE(TheGpu().counts().GlobalExcess(), codes == RowCodes::kE4m3Blocks ? 1.05 : 1.03);
    EXPECT_EQ(TheGpu().counts().bank_conflicts, 0u);
  }
}

TEST(NormCodes, RefusesCallsItWouldGetWrong) {
  const DeviceArray<uint16_t> x(std::vector<uint16_t>(256, 0));
  const DeviceArray<float> weight(std::vector<float>(128, 1)), scales(1);
  const DeviceArray<uint8_t> out(128);
  const RmsNormCall good{.rows = 1,
                         .cols = 128,
                         .x = x.data(),
                         .x_stride = 128,
                         .weight = weight.data(),
                         .epsilon = kEpsilon};
  const QuantizeRowsCall good_codes{.out = out.data(), .scales = scales.data()};
  const auto error = [&](auto change) {
    RmsNormCall norm = good;
    QuantizeRowsCall codes = good_codes;
    change(norm, codes);
    return LaunchNormCodes(norm, codes, nullptr);
  };
  using Norm = RmsNormCall;
  using Codes = QuantizeRowsCall;
  EXPECT_EQ(error([](Norm&, Codes&) {}), cudaSuccess) << TheGpu().TakeFault();
  EXPECT_EQ(error([](Norm& n, Codes&) { n.cols = 120; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](Norm& n, Codes&) { n.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](Norm& n, Codes&) { n.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](Norm& n, Codes&) { n.x = x.data() + 1; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](Norm& n, Codes&) { n.weight += 1; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](Norm&, Codes& c) { c.out = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](Norm&, Codes& c) { c.scales = nullptr; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](Norm&, Codes& c) { c.zero_rows = 1; }), cudaErrorInvalidValue);
  const auto of_blocks = [](Norm& n, Codes& c) {
    c.codes = RowCodes::kE4m3Blocks;
    n.cols = 64;
  };
  EXPECT_EQ(error(of_blocks), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda

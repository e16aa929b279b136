// RMSNorm and the gated activation on the emulator, against float64, for both types and rows with
// tails.
#include "kernels/cuda/row_ops.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "measured_error.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;

constexpr float kEpsilon = 1e-5f;

std::vector<float> Weights(int32_t n) {
  std::vector<float> weights(n);
  for (int32_t i = 0; i < n; ++i) weights[i] = 1 + 0.01f * (i % 7 - 3);
  return weights;
}

struct Normed {
  std::vector<uint16_t> out, residual;
};

Normed Normalize(DType dtype, int32_t cols, const std::vector<uint16_t>& x,
                 const std::vector<uint16_t>& residual) {
  const DeviceArray<uint16_t> device_x(x), out(x.size());
  const DeviceArray<float> weight(Weights(cols));
  std::optional<DeviceArray<uint16_t>> device_residual;
  if (!residual.empty()) device_residual.emplace(residual);
  RmsNormCall call{.dtype = dtype,
                   .rows = static_cast<int32_t>(x.size()) / cols,
                   .cols = cols,
                   .x = device_x.data(),
                   .x_stride = cols,
                   .weight = weight.data(),
                   .epsilon = kEpsilon,
                   .out = out.data(),
                   .out_stride = cols};
  if (device_residual.has_value()) {
    call.residual = device_residual->data();
    call.residual_stride = cols;
  }
  EXPECT_EQ(LaunchRmsNorm(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  return {out.Read(),
          device_residual.has_value() ? device_residual->Read() : std::vector<uint16_t>{}};
}

class RowOpsTest : public testing::TestWithParam<std::tuple<DType, int32_t>> {};

TEST_P(RowOpsTest, NormalizesAsFloat64Does) {
  const auto [dtype, cols] = GetParam();
  const std::vector<uint16_t> x = RandomHalves(dtype, 3 * static_cast<size_t>(cols), 1, 2.0f);
  const std::vector<uint16_t> before = RandomHalves(dtype, x.size(), 2);
  const std::vector<float> weights = Weights(cols);
  for (const bool with_residual : {false, true}) {
    std::vector<double> source = ToDoubles(dtype, x), expected;
    const Normed got = Normalize(dtype, cols, x, with_residual ? before : std::vector<uint16_t>{});
    for (size_t i = 0; i < x.size() && with_residual; ++i) {
      source[i] += ToFloat(dtype, before[i]);
      ASSERT_EQ(got.residual[i], ToHalf(dtype, static_cast<float>(source[i])));
      source[i] = ToFloat(dtype, got.residual[i]);
    }
    for (int row = 0; row < 3; ++row) {
      double squares = 0;
      for (int i = 0; i < cols; ++i) squares += source[row * cols + i] * source[row * cols + i];
      const double scale = 1 / std::sqrt(squares / cols + kEpsilon);
      for (int i = 0; i < cols; ++i)
        expected.push_back(source[row * cols + i] * scale * weights[i]);
    }
    // Of few results the roundings do not average out.
    const double error = RelativeError(ToDoubles(dtype, got.out), expected);
    EXPECT_LT(cols < 64 ? error : Measured("rms_norm", "-", dtype, error),
              cols < 64 ? 3e-3 : kTolerance);
  }
}

TEST_P(RowOpsTest, GatesAsFloat64Does) {
  const auto [dtype, cols] = GetParam();
  const std::vector<uint16_t> gate_up = RandomHalves(dtype, 6 * static_cast<size_t>(cols), 3, 3.0f);
  const DeviceArray<uint16_t> device(gate_up), out(3 * static_cast<size_t>(cols));
  const GatedCall call{.dtype = dtype,
                       .rows = 3,
                       .cols = cols,
                       .gate_up = device.data(),
                       .gate_up_stride = 2 * cols,
                       .out = out.data(),
                       .out_stride = cols};
  ASSERT_EQ(LaunchGated(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  std::vector<double> expected;
  for (int i = 0; i < 3 * cols; ++i) {
    const int64_t at = i / cols * 2 * cols + i % cols;
    const double gate = ToFloat(dtype, gate_up[at]), up = ToFloat(dtype, gate_up[at + cols]);
    expected.push_back(gate / (1 + std::exp(-gate)) * up);
  }
  const double error = RelativeError(ToDoubles(dtype, out.Read()), expected);
  EXPECT_LT(cols < 64 ? error : Measured("gated_activation", "-", dtype, error),
            cols < 64 ? 3e-3 : kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Each, RowOpsTest,
                         testing::Combine(testing::Values(DType::kBf16, DType::kF16),
                                          testing::Values(8, 136, 576, 2048, 4104)));

TEST(RowOps, GiveARowTheSameBitsAmongAnyRows) {
  const std::vector<uint16_t> x = RandomHalves(DType::kBf16, 5 * 576, 4);
  const std::vector<uint16_t> all = Normalize(DType::kBf16, 576, x, {}).out;
  const std::vector<uint16_t> third(x.begin() + 2 * 576, x.begin() + 3 * 576);
  EXPECT_EQ(Normalize(DType::kBf16, 576, third, {}).out,
            (std::vector(all.begin() + 2 * 576, all.begin() + 3 * 576)));
}

TEST(RowOps, GateSaturatesWithoutNan) {
  const std::vector<float> gates = {-100, -88, -20, 0, 20, 88, 100, 1e4f};
  std::vector<uint16_t> gate_up;
  for (const float gate : gates) gate_up.push_back(F32ToBf16(gate));
  for (size_t i = 0; i < gates.size(); ++i) gate_up.push_back(F32ToBf16(1));
  const DeviceArray<uint16_t> device(gate_up), out(8);
  ASSERT_EQ(LaunchGated({.rows = 1,
                         .cols = 8,
                         .gate_up = device.data(),
                         .gate_up_stride = 16,
                         .out = out.data(),
                         .out_stride = 8},
                        nullptr),
            cudaSuccess);
  const std::vector<double> result = ToDoubles(DType::kBf16, out.Read());
  EXPECT_EQ(result[3], 0);
  EXPECT_NEAR(result[0], 0, 1e-30);
  EXPECT_NEAR(result[7], 1e4, 40);
}

// Every sector that a warp asks for is used whole, f32 weights included.
TEST(RowOps, AskForNoByteTheyDoNotNeed) {
  for (const bool with_residual : {false, true}) {
    const std::vector<uint16_t> x = RandomHalves(DType::kBf16, 4 * 4096, 1);
    TheGpu().ResetCounts();
    Normalize(DType::kBf16, 4096, x, with_residual ? x : std::vector<uint16_t>{});
    EXPECT_LE(TheGpu().counts().GlobalExcess(), 1.03);
    EXPECT_EQ(TheGpu().counts().bank_conflicts, 0u);
  }
}

TEST(RowOps, RefuseRowsTheyCannotRead) {
  const DeviceArray<uint16_t> x(std::vector<uint16_t>(64, 0));
  const GatedCall good{.rows = 1,
                       .cols = 16,
                       .gate_up = x.data(),
                       .gate_up_stride = 32,
                       .out = x.data(),
                       .out_stride = 16};
  const auto error = [&](auto change) {
    GatedCall call = good;
    change(call);
    return LaunchGated(call, nullptr);
  };
  EXPECT_EQ(error([](GatedCall& c) { c.cols = 12; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](GatedCall& c) { c.gate_up_stride = 36; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](GatedCall& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](GatedCall& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](GatedCall& c) { c.gate_up = x.data() + 1; }), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace nibble::cuda

// Rows on the emulator: every canonical format dequantized by id and by slab, against
// quant::DequantizeRow; gathering; the end of a GEMM.
#include "kernels/cuda/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/pack_matrix.h"
#include "kernels/cuda/row_ops.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using quant::Format;
using quant::RandomSpec;

// A matrix on the emulated device.
class OnDevice {
 public:
  explicit OnDevice(const quant::Matrix& matrix) : OnDevice(PackMatrix(matrix).value()) {}
  const StoredMatrix& stored() const { return stored_; }

 private:
  explicit OnDevice(const HostMatrix& host) : stored_(host.stored), bytes_(host.bytes) {
    EXPECT_EQ(StoredBytes(host.stored), static_cast<int64_t>(host.bytes.size()));
    stored_.bytes = bytes_.data();
  }
  StoredMatrix stored_;
  DeviceArray<uint8_t> bytes_;
};

std::vector<uint16_t> Dequantized(const StoredMatrix& matrix, DType dtype,
                                  const std::vector<int32_t>& ids, int32_t first, int32_t rows) {
  const DeviceArray<int32_t> device_ids(ids.empty() ? std::vector<int32_t>{0} : ids);
  const int32_t stride = matrix.cols + 8;
  const DeviceArray<uint16_t> out(
      std::vector<uint16_t>(static_cast<size_t>(rows) * stride, 0x5555));
  const DequantizeCall call{.matrix = matrix,
                            .ids = ids.empty() ? nullptr : device_ids.data(),
                            .first = first,
                            .rows = rows,
                            .dtype = dtype,
                            .out = out.data(),
                            .out_stride = stride};
  EXPECT_EQ(LaunchDequantize(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  std::vector<uint16_t> packed;
  const std::vector<uint16_t> all = out.Read();
  for (int32_t r = 0; r < rows; ++r) {
    const auto row = all.begin() + static_cast<int64_t>(r) * stride;
    packed.insert(packed.end(), row, row + matrix.cols);
    for (int32_t c = matrix.cols; c < stride; ++c) EXPECT_EQ(row[c], 0x5555) << "a gap was written";
  }
  return packed;
}

float Rounded(DType dtype, float x) { return ToFloat(dtype, ToHalf(dtype, x)); }

struct FormatCase {
  std::string name;
  RandomSpec spec;
};

class DequantizeTest : public testing::TestWithParam<FormatCase> {};

TEST_P(DequantizeTest, RoundsWhatTheFormatSaysOnce) {
  const quant::Matrix matrix = quant::RandomMatrix(GetParam().spec, 5);
  const OnDevice device(matrix);
  std::vector<float> row(matrix.cols);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const std::vector<int32_t> ids = {matrix.rows - 1, 0, 3, 3};
    const std::vector<uint16_t> by_id =
        Dequantized(device.stored(), dtype, ids, 0, static_cast<int32_t>(ids.size()));
    const std::vector<uint16_t> slab = Dequantized(device.stored(), dtype, {}, 2, matrix.rows - 2);
    for (size_t i = 0; i < ids.size(); ++i) {
      quant::DequantizeRow(matrix, ids[i], row.data());
      for (int32_t c = 0; c < matrix.cols; ++c) {
        ASSERT_EQ(ToFloat(dtype, by_id[i * matrix.cols + c]), Rounded(dtype, row[c]))
            << ids[i] << ", " << c;
      }
    }
    for (int32_t r = 2; r < matrix.rows; ++r) {
      quant::DequantizeRow(matrix, r, row.data());
      for (int32_t c = 0; c < matrix.cols; ++c) {
        ASSERT_EQ(ToFloat(dtype, slab[int64_t{r - 2} * matrix.cols + c]), Rounded(dtype, row[c]))
            << r << ", " << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    EveryFormat, DequantizeTest,
    testing::Values(
        FormatCase{"Int4", {.rows = 130, .cols = 192, .group = 32}},
        FormatCase{"Int4Offsets", {.rows = 40, .cols = 256, .group = 128, .offsets = true}},
        FormatCase{"Int4F32", {.rows = 9, .cols = 128, .group = 64, .f16_scales = false}},
        FormatCase{"Int4OfGroup16", {.rows = 9, .cols = 48, .group = 16, .offsets = true}},
        FormatCase{"Lut4", {.format = Format::kLut4, .rows = 33, .cols = 160, .group = 32}},
        FormatCase{"Int5", {.format = Format::kInt5Affine, .rows = 8, .cols = 64, .offsets = true}},
        FormatCase{"Int8", {.format = Format::kInt8, .rows = 20, .cols = 2112, .group = 32}},
        FormatCase{"Int8ByRow", {.format = Format::kInt8, .rows = 7, .cols = 96, .group = 96}},
        FormatCase{"Q4K", {.format = Format::kQ4K, .rows = 6, .cols = 512}},
        FormatCase{"Q5K", {.format = Format::kQ5K, .rows = 6, .cols = 512}},
        FormatCase{"Q6K", {.format = Format::kQ6K, .rows = 6, .cols = 512}},
        FormatCase{"Fp8ByTensor",
                   {.format = Format::kFp8, .rows = 12, .cols = 64, .group = 64, .row_group = 12}},
        FormatCase{
            "Fp8Blocks",
            {.format = Format::kFp8, .rows = 140, .cols = 200, .group = 128, .row_group = 128}},
        FormatCase{
            "Fp8E5m2",
            {.format = Format::kFp8, .rows = 5, .cols = 64, .group = 64, .fp8 = quant::Fp8::kE5m2}},
        FormatCase{"Bf16", {.format = Format::kBf16, .rows = 5, .cols = 72, .group = 0}},
        FormatCase{"F32", {.format = Format::kF32, .rows = 5, .cols = 72, .group = 0}}),
    [](const auto& info) { return info.param.name; });

TEST(Rows, GatherPicksRows) {
  const std::vector<uint16_t> x = RandomHalves(DType::kBf16, 6 * 1040, 1);
  const DeviceArray<uint16_t> device_x(x), out(3 * 1032);
  const DeviceArray<int32_t> ids(std::vector<int32_t>{5, 0, 5});
  const GatherCall call{.x = device_x.data(),
                        .x_stride = 1040,
                        .ids = ids.data(),
                        .rows = 3,
                        .cols = 1032,
                        .out = out.data(),
                        .out_stride = 1032};
  ASSERT_EQ(LaunchGather(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
  const std::vector<uint16_t> got = out.Read();
  for (int32_t c = 0; c < 1032; ++c) {
    ASSERT_EQ(got[c], x[5 * 1040 + c]);
    ASSERT_EQ(got[1032 + c], x[c]);
    ASSERT_EQ(got[2 * 1032 + c], x[5 * 1040 + c]);
  }
}

TEST(Rows, FinishAddsBiasAndWhatIsThereAndRoundsOnce) {
  constexpr int32_t kRows = 3, kCols = 131, kStride = 140;
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    std::vector<float> sums(kRows * kCols), bias(kCols);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = std::sin(static_cast<float>(i));
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = std::cos(static_cast<float>(i));
    const std::vector<uint16_t> before = RandomHalves(dtype, kRows * kStride, 2);
    const DeviceArray<float> device_sums(sums), device_bias(bias);
    const DeviceArray<uint16_t> y(before);
    const FinishCall call{.dtype = dtype,
                          .parts = {{.sums = device_sums.data(), .stride = kCols, .cols = kCols}},
                          .bias = device_bias.data(),
                          .accumulate = true,
                          .rows = kRows,
                          .y = y.data(),
                          .y_stride = kStride};
    ASSERT_EQ(LaunchFinish(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
    const std::vector<uint16_t> got = y.Read();
    for (int32_t r = 0; r < kRows; ++r) {
      for (int32_t c = 0; c < kCols; ++c) {
        const float expected =
            sums[r * kCols + c] + bias[c] + ToFloat(dtype, before[r * kStride + c]);
        ASSERT_EQ(got[r * kStride + c], ToHalf(dtype, expected)) << r << ", " << c;
      }
      ASSERT_EQ(got[r * kStride + kCols], before[r * kStride + kCols]);
    }
  }
}

// Sums of a GEMM of codes with their scales, on the device.
class ScaledSums {
 public:
  ScaledSums(int32_t rows, int32_t cols, bool is_int32, uint32_t seed)
      : f32_(Numbers(static_cast<size_t>(rows) * cols, 1000, seed)),
        row_scales_(Numbers(rows, 0.01f, seed + 1)),
        col_scales_(Numbers(cols, 0.01f, seed + 2)) {
    std::vector<int32_t> ints;
    for (float& x : f32_) {
      ints.push_back(static_cast<int32_t>(x));
      if (is_int32) x = static_cast<float>(ints.back());
    }
    device_f32_.emplace(f32_);
    device_int32_.emplace(ints);
    device_row_scales_.emplace(row_scales_);
    device_col_scales_.emplace(col_scales_);
    part_.sums = is_int32 ? static_cast<const void*>(device_int32_->data()) : device_f32_->data();
    part_.stride = part_.cols = cols;
    part_.is_int32 = is_int32;
    part_.row_scales = device_row_scales_->data();
    part_.col_scales = device_col_scales_->data();
  }
  const GemmSums& part() const { return part_; }
  float Value(int32_t r, int32_t c) const {
    return f32_[r * part_.cols + c] * (row_scales_[r] * col_scales_[c]);
  }

 private:
  static std::vector<float> Numbers(size_t n, float spread, uint32_t seed) {
    std::vector<float> numbers;
    for (const uint16_t half : RandomHalves(DType::kF16, n, seed))
      numbers.push_back(spread * ToFloat(DType::kF16, half));
    return numbers;
  }
  std::vector<float> f32_, row_scales_, col_scales_;
  std::optional<DeviceArray<float>> device_f32_, device_row_scales_, device_col_scales_;
  std::optional<DeviceArray<int32_t>> device_int32_;
  GemmSums part_;
};

// Borders between parts within a warp and within a block of threads.
TEST(Rows, FinishPutsThePartsSideBySide) {
  constexpr int32_t kRows = 3, kCols = 144 + 16 + 80;
  const ScaledSums q(kRows, 144, true, 1), k(kRows, 16, false, 5), v(kRows, 80, true, 9);
  std::vector<float> bias(kCols);
  for (size_t i = 0; i < bias.size(); ++i) bias[i] = std::cos(static_cast<float>(i));
  const DeviceArray<float> device_bias(bias);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const DeviceArray<uint16_t> y(std::vector<uint16_t>(kRows * kCols, 0x5555));
    const FinishCall call{.dtype = dtype,
                          .parts = {q.part(), k.part(), v.part()},
                          .num_parts = 3,
                          .bias = device_bias.data(),
                          .rows = kRows,
                          .y = y.data(),
                          .y_stride = kCols};
    ASSERT_EQ(LaunchFinish(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
    const std::vector<uint16_t> got = y.Read();
    for (int32_t i = 0; i < kRows * kCols; ++i) {
      const int32_t r = i / kCols, c = i % kCols;
      const float value =
          c < 144 ? q.Value(r, c) : (c < 160 ? k.Value(r, c - 144) : v.Value(r, c - 160));
      ASSERT_EQ(got[i], ToHalf(dtype, value + bias[c])) << r << ", " << c;
    }
  }
}

TEST(Rows, FinishGatesToTheBitsOfTwoLaunches) {
  constexpr int32_t kRows = 3, kCols = 272;
  const ScaledSums gate(kRows, kCols, false, 3), up(kRows, kCols, true, 7);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    const DeviceArray<uint16_t> both(2 * kRows * kCols), expected(kRows * kCols),
        got(kRows * kCols);
    FinishCall call{.dtype = dtype, .parts = {gate.part(), up.part()}, .num_parts = 2};
    call.rows = kRows;
    call.y = both.data();
    call.y_stride = 2 * kCols;
    ASSERT_EQ(LaunchFinish(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
    const GatedCall gated{.dtype = dtype,
                          .rows = kRows,
                          .cols = kCols,
                          .gate_up = both.data(),
                          .gate_up_stride = 2 * kCols,
                          .out = expected.data(),
                          .out_stride = kCols};
    ASSERT_EQ(LaunchGated(gated, nullptr), cudaSuccess) << TheGpu().TakeFault();
    call.gated = true;
    call.y = got.data();
    call.y_stride = kCols;
    ASSERT_EQ(LaunchFinish(call, nullptr), cudaSuccess) << TheGpu().TakeFault();
    EXPECT_EQ(got.Read(), expected.Read());
  }
}

TEST(Rows, FinishRefusesPartsThatDoNotFit) {
  const DeviceArray<float> sums(std::vector<float>(16, 1));
  const DeviceArray<uint16_t> y(16);
  const GemmSums part{.sums = sums.data(), .stride = 8, .cols = 8};
  const auto error = [&](auto change) {
    FinishCall call{.parts = {part, part}, .num_parts = 2};
    call.rows = 1;
    call.y = y.data();
    call.y_stride = 16;
    change(call);
    return LaunchFinish(call, nullptr);
  };
  EXPECT_EQ(error([](FinishCall&) {}), cudaSuccess) << TheGpu().TakeFault();
  EXPECT_EQ(error([](FinishCall& c) { c.gated = true; }), cudaSuccess) << TheGpu().TakeFault();
  EXPECT_EQ(error([](FinishCall& c) { c.num_parts = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](FinishCall& c) { c.num_parts = 4; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](FinishCall& c) { c.num_parts = 3; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([](FinishCall& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(error([&](FinishCall& c) { c.parts[1].row_scales = sums.data(); }),
            cudaErrorInvalidValue);
  const auto gated = [&](auto change) {
    return error([&](FinishCall& c) {
      c.gated = true;
      change(c);
    });
  };
  EXPECT_EQ(gated([](FinishCall& c) { c.accumulate = true; }), cudaErrorInvalidValue);
  EXPECT_EQ(gated([](FinishCall& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(gated([](FinishCall& c) { c.parts[1].cols = 4; }), cudaErrorInvalidValue);
  EXPECT_EQ(gated([&](FinishCall& c) { c.bias = sums.data(); }), cudaErrorInvalidValue);
}

TEST(Rows, RefusesCallsItWouldGetWrong) {
  const OnDevice device(quant::RandomMatrix({.rows = 8, .cols = 64}, 1));
  const DeviceArray<uint16_t> out(1024);
  DequantizeCall call{.matrix = device.stored(), .rows = 8, .out = out.data(), .out_stride = 64};
  const auto with = [&](auto change) {
    DequantizeCall changed = call;
    change(changed);
    return LaunchDequantize(changed, nullptr);
  };
  EXPECT_EQ(with([](DequantizeCall& c) { c.rows = 0; }), cudaErrorInvalidValue);
  EXPECT_EQ(with([](DequantizeCall& c) { c.first = 1; }), cudaErrorInvalidValue);
  EXPECT_EQ(with([](DequantizeCall& c) { c.out_stride = 65; }), cudaErrorInvalidValue);
  EXPECT_EQ(with([](DequantizeCall& c) { c.dtype = DType::kF32; }), cudaErrorInvalidValue);
  EXPECT_EQ(with([](DequantizeCall&) {}), cudaSuccess);
}

}  // namespace
}  // namespace nibble::cuda

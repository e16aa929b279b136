// Rows on the emulator: every canonical format dequantized by id and by slab, against
// quant::DequantizeRow; gathering; the end of a GEMM.
#include "kernels/cuda/rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/pack_matrix.h"
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
                          .sums = device_sums.data(),
                          .sums_stride = kCols,
                          .bias = device_bias.data(),
                          .accumulate = true,
                          .rows = kRows,
                          .cols = kCols,
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

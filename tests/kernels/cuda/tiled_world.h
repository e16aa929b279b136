// A matrix in tiles on the emulated device, its product with any rows, and the float64 product that
// it must equal; and the formats that the tiled linear is tested in.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "device_array.h"
#include "emulator/gpu.h"
#include "half_rows.h"
#include "kernels/cuda/tiled_linear.h"
#include "kernels/cuda/tiled_pack.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cuda {

// One matrix on the device, ready to be multiplied by any rows.
class Weight {
 public:
  Weight(const quant::RandomSpec& spec, uint32_t seed) : Weight(quant::RandomMatrix(spec, seed)) {}
  explicit Weight(quant::Matrix matrix)
      : matrix_(std::move(matrix)), packed_(PackTiles(matrix_).value()), bytes_(packed_.bytes) {
    std::vector<float> row(matrix_.cols);
    for (int32_t n = 0; n < matrix_.rows; ++n) {
      quant::DequantizeRow(matrix_, n, row.data());
      values_.insert(values_.end(), row.begin(), row.end());
    }
  }
  const TiledLayout& layout() const { return packed_.layout; }
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
  TiledMatrix packed_;
  DeviceArray<uint8_t> bytes_;
  std::vector<float> values_;
};

struct MultiplyOptions {
  DType dtype = DType::kBf16;
  std::vector<uint16_t> y;  // accumulated onto, where not empty
  std::vector<float> bias;
  int calls = 1;            // with one workspace
  bool count_sums = false;  // the launch of group sums, too, in the emulator's counts
  bool warp_groups = false;
  int32_t most_stages = 0;
};

// y [rows of x, rows of all weights], by one launch.
inline std::vector<uint16_t> MultiplyTogether(const std::vector<const Weight*>& weights,
                                              const std::vector<uint16_t>& x,
                                              const MultiplyOptions& options = {}) {
  const int32_t cols = weights[0]->cols();
  TiledLinear call;
  call.num_weights = static_cast<int32_t>(weights.size());
  call.rows = static_cast<int32_t>(x.size()) / cols;
  for (size_t i = 0; i < weights.size(); ++i) {
    call.weights[i].layout = weights[i]->layout();
    call.weights[i].tiles = weights[i]->data();
    call.y_stride += weights[i]->rows();
  }
  const DeviceArray<uint16_t> device_x(x);
  DeviceArray<uint16_t> y(static_cast<size_t>(call.rows) * call.y_stride);
  const int64_t workspace_bytes = TiledWorkspaceBytes(call);
  const DeviceArray<uint8_t> workspace(static_cast<size_t>(workspace_bytes) + 1);
  cudaMemset(workspace.data(), 0, static_cast<size_t>(TiledCounterBytes(call)));
  std::optional<DeviceArray<float>> bias;
  if (!options.bias.empty()) bias.emplace(options.bias);
  for (int32_t i = 0, col = 0; i < call.num_weights; col += weights[i++]->rows()) {
    call.weights[i].y = y.data() + col;
    if (bias.has_value()) call.weights[i].bias = bias->data() + col;
  }
  call.dtype = options.dtype;
  call.warp_groups = options.warp_groups;
  call.most_stages = options.most_stages;
  call.x = device_x.data();
  call.x_stride = cols;
  call.workspace = workspace_bytes > 0 ? workspace.data() : nullptr;
  const TiledLayout& layout = call.weights[0].layout;
  const DeviceArray<float> sums(static_cast<size_t>(GroupSumsBytes(layout, call.rows)) / 4);
  if (layout.offsets) {
    EXPECT_EQ(LaunchGroupSums(call, sums.data(), nullptr), cudaSuccess)
        << emulator::TheGpu().TakeFault();
    call.group_sums = sums.data();
    if (!options.count_sums) emulator::TheGpu().ResetCounts();
  }
  for (int i = 0; i < options.calls; ++i) {
    if (!options.y.empty()) {
      y.Write(options.y);
      call.accumulate = true;
    }
    EXPECT_EQ(LaunchTiledLinear(call, nullptr), cudaSuccess) << emulator::TheGpu().TakeFault();
  }
  return y.Read();
}

inline std::vector<uint16_t> Multiply(const Weight& weight, const std::vector<uint16_t>& x,
                                      const MultiplyOptions& options = {}) {
  return MultiplyTogether({&weight}, x, options);
}

inline double ErrorOf(const Weight& weight, int32_t rows, DType dtype) {
  const std::vector<uint16_t> x = RandomHalves(dtype, static_cast<size_t>(rows) * weight.cols(), 3);
  return RelativeError(ToDoubles(dtype, Multiply(weight, x, {.dtype = dtype})),
                       weight.Times(dtype, x));
}

// Every kind of codes and scales that the kernels are compiled for.
struct TiledFormat {
  std::string name;
  quant::RandomSpec spec;  // rows, cols, and groups of whole rows or of all rows, are the test's

  bool is_4bit() const {
    return spec.format == quant::Format::kInt4Affine || spec.format == quant::Format::kLut4;
  }
  quant::RandomSpec Of(int32_t rows, int32_t cols) const {
    quant::RandomSpec sized = spec;
    sized.rows = rows;
    sized.cols = cols;
    if (sized.group == 0) sized.group = cols;
    if (sized.row_group == 0) sized.row_group = rows;
    return sized;
  }
};

inline std::vector<TiledFormat> TiledFormats() {
  using quant::Format;
  using quant::Fp8;
  using Table = quant::RandomSpec::Table;
  return {
      {"Int4", {}},
      {"Int4F32Scales", {.f16_scales = false}},
      {"Int4Offsets", {.offsets = true}},
      {"Int4OffsetsF32", {.offsets = true, .f16_scales = false}},
      // IQ4_NL's table, exact in 16 bits.
      {"Lut4", {.format = Format::kLut4, .table = Table::kInteger}},
      {"Lut4F32Scales", {.format = Format::kLut4, .f16_scales = false, .table = Table::kInteger}},
      {"Int8", {.format = Format::kInt8}},
      {"Int8F32Scales", {.format = Format::kInt8, .f16_scales = false}},
      {"Int8Offsets", {.format = Format::kInt8, .offsets = true}},
      {"Int8Channel", {.format = Format::kInt8, .group = 0, .f16_scales = false}},
      {"E4m3Tensor", {.format = Format::kFp8, .group = 0, .row_group = 0}},
      {"E4m3Channel", {.format = Format::kFp8, .group = 0}},
      {"E4m3Block", {.format = Format::kFp8, .group = 128, .row_group = 128}},
      {"E5m2Tensor", {.format = Format::kFp8, .group = 0, .row_group = 0, .fp8 = Fp8::kE5m2}},
      {"E5m2Channel", {.format = Format::kFp8, .group = 0, .fp8 = Fp8::kE5m2}},
      {"E5m2Block", {.format = Format::kFp8, .group = 128, .row_group = 128, .fp8 = Fp8::kE5m2}},
  };
}

}  // namespace nibble::cuda

// One linear call in a test: random x, weights packed from canonical matrices, and what float64
// says y should be.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/lut_table.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {

// The instruction sets to test the linear op on: those of the machine. In the twin program of
// CMakeLists.txt, whose linear_avx_vnni.cc is compiled for AVX-512-VNNI's encoding, that one (and
// avx2 to compare it with), although the machine may lack it.
inline std::vector<CpuIsa> IsasOfThisMachine() {
#if defined(NIBBLE_AVX_VNNI_TWIN)
  if (!ChooseIsa(CpuIsa::kAvx512Vnni).ok()) return {CpuIsa::kScalar};
  return {CpuIsa::kAvx2, CpuIsa::kAvxVnni};
#else
  return SupportedIsas();
#endif
}

inline const char* ActivationsSuffix(CpuActivations activations) {
  return activations == CpuActivations::kInt8    ? "_int8"
         : activations == CpuActivations::kInt16 ? "_int16"
                                                 : "_f32";
}

// Meets int8 activations unless they are CpuActivations::kF32.
inline bool IsIntFormat(quant::Format format) {
  return format != quant::Format::kFp8 && format != quant::Format::kBf16 &&
         format != quant::Format::kF32;
}

// A table whose entries are no multiples of one power of two is read in 16 bits by the int8 path:
// lut_table_test holds how close that is.
inline quant::Matrix WithTableAsRead(const quant::Matrix& matrix) {
  quant::Matrix read = matrix;
  const cpu::LutTable lut = cpu::MakeLutTable(std::to_array(matrix.table));
  for (int i = 0; i < 16 && lut.two_planes; ++i) {
    read.table[i] = lut.factor * static_cast<float>(256 * (lut.high[i] - 128) + lut.low[i] - 128);
  }
  return read;
}

struct LinearCall {
  std::vector<quant::Matrix> matrices;
  std::vector<std::unique_ptr<PackedMatrix>> packed, packed_for_int8;
  int32_t rows = 0;
  int32_t cols = 0;
  int32_t out_cols = 0;
  int32_t pad = 0;  // columns between rows of x and of y, to test strides
  std::vector<float> x;
  std::vector<float> bias;
  std::vector<float> y_before;
  bool accumulate = false;

  void AddWeight(quant::Matrix matrix) {
    for (const auto activations : {CpuActivations::kF32, CpuActivations::kInt8}) {
      auto result = PackCpu(matrix, activations);
      ASSERT_TRUE(result.ok()) << result.status();
      PackedFor(activations).push_back(std::move(*result));
    }
    cols = matrix.cols;
    out_cols += matrix.rows;
    matrices.push_back(std::move(matrix));
  }

  std::vector<std::unique_ptr<PackedMatrix>>& PackedFor(CpuActivations activations) {
    return activations == CpuActivations::kInt8 ? packed_for_int8 : packed;
  }
  const std::vector<std::unique_ptr<PackedMatrix>>& PackedFor(CpuActivations activations) const {
    return activations == CpuActivations::kInt8 ? packed_for_int8 : packed;
  }

  void FillX(int32_t num_rows, uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    rows = num_rows;
    x.resize(static_cast<size_t>(rows) * (cols + pad));
    for (float& value : x) value = normal(random);
    y_before.resize(static_cast<size_t>(rows) * (out_cols + pad));
    for (float& value : y_before) value = normal(random);
  }

  void FillBias(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    bias.resize(out_cols);
    for (float& value : bias) value = normal(random);
  }

  // Rows first .. first + count - 1 of x through LinearCpu; y rows with their padding.
  std::vector<float> Run(ThreadPool& pool, CpuIsa isa, CpuActivations activations,
                         int32_t first = 0, int32_t count = -1) const {
    if (count < 0) count = rows;
    std::vector<float> y(y_before.begin() + static_cast<int64_t>(first) * (out_cols + pad),
                         y_before.begin() + static_cast<int64_t>(first + count) * (out_cols + pad));
    std::vector<const PackedMatrix*> weights;
    for (const auto& weight : PackedFor(activations)) weights.push_back(weight.get());
    const float* x_rows = x.data() + static_cast<int64_t>(first) * (cols + pad);
    LinearScratch scratch;
    LinearCpu(pool, scratch,
              {.x = {.data = const_cast<float*>(x_rows),
                     .rows = count,
                     .cols = cols,
                     .stride = cols + pad},
               .weights = weights,
               .bias = bias.empty() ? nullptr : bias.data(),
               .y = {.data = y.data(), .rows = count, .cols = out_cols, .stride = out_cols + pad},
               .accumulate = accumulate},
              isa, activations);
    return y;
  }

  // x as the int8 path sees it: each group of 32 rounded to multiples of max / 127. With kInt16 the
  // rest is rounded so once more. In float64.
  std::vector<double> RoundedX(CpuActivations activations) const {
    const std::vector<double> rounded = Rounded({x.begin(), x.end()});
    if (activations != CpuActivations::kInt16) return rounded;
    std::vector<double> rest(x.begin(), x.end());
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= rounded[i];
    rest = Rounded(rest);
    for (size_t i = 0; i < rest.size(); ++i) rest[i] += rounded[i];
    return rest;
  }

  std::vector<double> Rounded(std::vector<double> rounded) const {
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t g = 0; g < cols / 32; ++g) {
        double* group = rounded.data() + static_cast<int64_t>(r) * (cols + pad) + 32 * g;
        double largest = 0;
        for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(group[i]));
        const float scale = static_cast<float>(largest) / 127.0f;
        const float inverse = largest == 0 ? 0.0f : 127.0f / static_cast<float>(largest);
        for (int i = 0; i < 32; ++i) {
          group[i] = scale * std::nearbyint(static_cast<float>(group[i]) * inverse);
        }
      }
    }
    return rounded;
  }

  // y by float64 arithmetic on the dequantized weights; padding unchanged. `sizes` receives sum |x
  // * w| of each.
  std::vector<double> Reference(CpuActivations activations, std::vector<double>* sizes) const {
    std::vector<double> y(y_before.begin(), y_before.end());
    sizes->assign(y.size(), 0.0);
    const std::vector<double> rounded = RoundedX(activations);
    int32_t col = 0;
    for (const quant::Matrix& exact : matrices) {
      const bool round = IsIntFormat(exact.format) && activations != CpuActivations::kF32;
      const quant::Matrix matrix =
          round && exact.format == quant::Format::kLut4 ? WithTableAsRead(exact) : exact;
      std::vector<float> w(cols);
      for (int32_t n = 0; n < matrix.rows; ++n, ++col) {
        quant::DequantizeRow(matrix, n, w.data());
        for (int32_t r = 0; r < rows; ++r) {
          double sum = bias.empty() ? 0.0 : bias[col];
          double size = 1;
          for (int32_t k = 0; k < cols; ++k) {
            const size_t at = static_cast<size_t>(r) * (cols + pad) + k;
            const double product = (round ? rounded[at] : x[at]) * w[k];
            sum += product;
            size += std::fabs(product);
          }
          const size_t at = static_cast<size_t>(r) * (out_cols + pad) + col;
          y[at] = accumulate ? y[at] + sum : sum;
          (*sizes)[at] = size;
        }
      }
    }
    return y;
  }
};

}  // namespace nibble

// What the tests of the CPU ops share: the instruction sets this machine has, and seeded random
// rows.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

namespace nibble {

inline std::vector<CpuIsa> AvailableIsas() { return SupportedIsas(); }

inline std::string NameOfIsa(const testing::TestParamInfo<CpuIsa>& info) {
  return std::string(IsaName(info.param));
}

inline std::unique_ptr<Backend> MakeBackend(CpuIsa isa, int32_t num_threads,
                                            CpuActivations activations = CpuActivations::kInt8) {
  CpuOptions options;
  options.isa = isa;
  options.activations = activations;
  options.num_threads = num_threads;
  return CreateCpuBackend(options).value();
}

inline std::vector<float> RandomFloats(std::mt19937& random, size_t n, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

inline Tensor RowsOf(std::vector<float>& values, int32_t rows, int32_t cols) {
  Tensor tensor;
  tensor.data = values.data();
  tensor.rows = rows;
  tensor.cols = cols;
  tensor.stride = cols;
  return tensor;
}

}  // namespace nibble

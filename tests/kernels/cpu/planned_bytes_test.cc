#include "kernels/cpu/planned_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cpu/linear.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble::cpu {
namespace {

using quant::Format;
using quant::RandomSpec;
using ::testing::HasSubstr;

PlannedMatrix PlanOf(const RandomSpec& spec) {
  PlannedMatrix plan;
  plan.format = spec.format;
  plan.rows = spec.rows;
  plan.cols = spec.cols;
  plan.group = spec.group == spec.cols ? 0 : spec.group;
  plan.offsets = spec.offsets;
  plan.f32_scales = !spec.f16_scales;
  return plan;
}

TEST(CpuPlannedBytes, AreWhatPackingTakes) {
  const RandomSpec specs[] = {
      {.rows = 130, .cols = 256},
      {.rows = 130, .cols = 256, .offsets = true},
      {.rows = 130, .cols = 256, .group = 64, .f16_scales = false},
      {.rows = 130, .cols = 256, .group = 16, .offsets = true},
      {.rows = 130, .cols = 256, .group = 256},
      {.rows = 130, .cols = 96, .offsets = true},  // an odd number of groups
      {.format = Format::kLut4, .rows = 130, .cols = 256, .e8m0_scales = true},
      {.format = Format::kQ4K, .rows = 130, .cols = 256},
      {.format = Format::kQ5K, .rows = 130, .cols = 256},
      {.format = Format::kQ6K, .rows = 130, .cols = 256},
      {.format = Format::kInt5Affine, .rows = 130, .cols = 256, .offsets = true},
      {.format = Format::kInt8, .rows = 130, .cols = 256},
      {.format = Format::kInt8, .rows = 130, .cols = 256, .group = 256, .f16_scales = false},
      {.format = Format::kFp8, .rows = 130, .cols = 256, .group = 256, .f16_scales = false},
      {.format = Format::kBf16, .rows = 130, .cols = 256, .group = 0},
      {.format = Format::kF32, .rows = 130, .cols = 256, .group = 0},
  };
  for (const RandomSpec& spec : specs) {
    for (const auto activations : {CpuActivations::kF32, CpuActivations::kInt8}) {
      const auto packed = PackCpu(quant::RandomMatrix(spec, 1), activations);
      ASSERT_TRUE(packed.ok()) << packed.status();
      EXPECT_EQ(PlannedBytes(PlanOf(spec), activations), (*packed)->size_bytes())
          << quant::FormatName(spec.format) << " group " << spec.group << " offsets "
          << spec.offsets;
    }
  }
}

TEST(CpuPlannedBytes, OffsetsThatAreAZeroPointAreLeftOut) {
  const RandomSpec spec{.rows = 64, .cols = 64, .offsets = true};
  quant::Matrix matrix = quant::RandomMatrix(spec, 1);
  for (size_t i = 0; i < matrix.scales.size(); ++i) matrix.offsets[i] = -8 * matrix.scales[i];
  PlannedMatrix plan = PlanOf(spec);
  plan.zero_point = true;
  for (const auto activations : {CpuActivations::kF32, CpuActivations::kInt8}) {
    EXPECT_EQ(PlannedBytes(plan, activations), PackCpu(matrix, activations).value()->size_bytes());
  }
}

TEST(CheckMemoryPlan, OneByteTooManyIsRefusedWithTheSum) {
  const std::vector<PlannedMatrix> matrices = {PlanOf({.format = Format::kF32, .group = 0})};
  const int64_t matrix = PlannedBytes(matrices[0], CpuActivations::kF32);
  MemoryPlan plan;
  plan.matrices = matrices;
  plan.weights = 10;
  plan.kv_cache = 200;
  plan.activations = 3000;
  EXPECT_TRUE(CheckMemoryPlan(plan, CpuActivations::kF32, matrix + 3210).ok());
  const absl::Status status = CheckMemoryPlan(plan, CpuActivations::kF32, matrix + 3209);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("KV cache 200"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv-cache-mib"));
}

}  // namespace
}  // namespace nibble::cpu

// Attention with products in bf16: when it is chosen, and how far from exact it may be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/cpu/attention_world.h"

namespace nibble {
namespace {

constexpr Shape kShape = {6, 2, 64, 32};

class AttentionBf16Test : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (!ChooseIsa(CpuIsa::kAvx512VnniBf16).ok()) GTEST_SKIP() << "this machine has no VDPBF16PS";
  }
  static World MakeWorld(CpuIsa isa, CpuActivations activations) {
    return World({isa, GetParam()}, 1, kShape, {301}, 23, 1, activations);
  }
};
INSTANTIATE_TEST_SUITE_P(Type, AttentionBf16Test, testing::ValuesIn(kCacheTypes),
                         [](const auto& info) { return NameOfType(info.param); });

// q, k, v and weights are off by up to 2^-8 of them. For these rows that came to at most 0.65 % of
// the sum of magnitudes behind an element; twice that is allowed.
TEST_P(AttentionBf16Test, IsWithinALittleOverOnePercentOfFloat64OfTheCache) {
  World world = MakeWorld(CpuIsa::kAvx512VnniBf16, CpuActivations::kInt8);
  const auto rows = world.Step({{0, 0, 301}});
  double worst = 0;
  for (const int32_t position : {0, 1, 62, 63, 64, 128, 255, 256, 300}) {
    const auto expected = world.Reference(0, position, DType::kF32);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = std::abs(rows[position][i] - expected[i].value);
      worst = std::max(worst, error / expected[i].magnitude);
    }
  }
  RecordProperty("worst_relative_error", std::to_string(worst));
  EXPECT_LT(worst, 0.0125);
  EXPECT_GT(worst, 1e-4) << "products are not in bf16";
}

// The exact kinds of activations keep the bits of f32 products.
TEST_P(AttentionBf16Test, OnlyInt8ActivationsRound) {
  const auto expected = MakeWorld(CpuIsa::kAvx512, CpuActivations::kInt8).Step({{0, 0, 301}});
  for (const CpuActivations activations : {CpuActivations::kInt16, CpuActivations::kF32}) {
    World world = MakeWorld(CpuIsa::kAvx512VnniBf16, activations);
    EXPECT_EQ(world.Step({{0, 0, 301}}), expected);
  }
}

}  // namespace
}  // namespace nibble

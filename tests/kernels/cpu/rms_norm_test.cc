// RmsNorm and the gated activation against float64, for lengths around every vector width.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/cpu/op_fixture.h"

namespace nibble {
namespace {

class RmsNormTest : public testing::TestWithParam<CpuIsa> {};
INSTANTIATE_TEST_SUITE_P(Isa, RmsNormTest, testing::ValuesIn(AvailableIsas()), NameOfIsa);
class GatedTest : public RmsNormTest {};
INSTANTIATE_TEST_SUITE_P(Isa, GatedTest, testing::ValuesIn(AvailableIsas()), NameOfIsa);

constexpr float kEpsilon = 1e-5f;

std::vector<double> Expected(const float* x, const std::vector<float>& weight) {
  double squares = 0;
  for (size_t i = 0; i < weight.size(); ++i) squares += double{x[i]} * x[i];
  std::vector<double> out;
  for (size_t i = 0; i < weight.size(); ++i) {
    out.push_back(x[i] / std::sqrt(squares / weight.size() + kEpsilon) * weight[i]);
  }
  return out;
}

TEST_P(RmsNormTest, MatchesFloat64ForEveryLength) {
  std::mt19937 random(1);
  auto backend = MakeBackend(GetParam(), 1);
  for (int32_t cols : {1, 7, 8, 9, 15, 16, 17, 64, 576, 1031}) {
    std::vector<float> x = RandomFloats(random, 2 * cols, 3.0f), out(2 * cols);
    const std::vector<float> weight = RandomFloats(random, cols);
    RmsNormParams params;
    params.x = RowsOf(x, 2, cols);
    params.weight = weight.data();
    params.epsilon = kEpsilon;
    params.out = RowsOf(out, 2, cols);
    backend->RmsNorm(params);
    for (int32_t r = 0; r < 2; ++r) {
      const std::vector<double> expected = Expected(&x[r * cols], weight);
      for (int32_t i = 0; i < cols; ++i) {
        ASSERT_NEAR(out[r * cols + i], expected[i], 1e-6 * (1 + std::abs(expected[i])));
      }
    }
  }
}

TEST_P(RmsNormTest, AddsIntoTheResidualFirstAndWorksInPlace) {
  std::mt19937 random(2);
  auto backend = MakeBackend(GetParam(), 1);
  const int32_t cols = 100;
  std::vector<float> x = RandomFloats(random, cols), residual = RandomFloats(random, cols);
  const std::vector<float> weight = RandomFloats(random, cols);
  std::vector<float> sum(cols);
  for (int32_t i = 0; i < cols; ++i) sum[i] = x[i] + residual[i];
  const std::vector<double> expected = Expected(sum.data(), weight);
  RmsNormParams params;
  params.x = params.out = RowsOf(x, 1, cols);
  params.residual = RowsOf(residual, 1, cols);
  params.weight = weight.data();
  params.epsilon = kEpsilon;
  backend->RmsNorm(params);
  EXPECT_EQ(residual, sum);
  for (int32_t i = 0; i < cols; ++i) ASSERT_NEAR(x[i], expected[i], 1e-5);
}

TEST_P(RmsNormTest, ARowIsTheSameBitsAloneAndAmongManyOnAnyThreads) {
  std::mt19937 random(3);
  const int32_t rows = 65, cols = 577;
  std::vector<float> x = RandomFloats(random, rows * cols);
  const std::vector<float> weight = RandomFloats(random, cols);
  std::vector<std::vector<float>> outs;
  for (int32_t num_threads = 1; num_threads <= 4; ++num_threads) {
    auto backend = MakeBackend(GetParam(), num_threads);
    RmsNormParams params;
    params.weight = weight.data();
    params.epsilon = kEpsilon;
    outs.emplace_back(x.size());
    params.x = RowsOf(x, rows, cols);
    params.out = RowsOf(outs.back(), rows, cols);
    backend->RmsNorm(params);
    std::vector<float> one(cols);
    params.x.data = params.x.f32_row(31);
    params.x.rows = 1;
    params.out = RowsOf(one, 1, cols);
    backend->RmsNorm(params);
    EXPECT_EQ(one, std::vector<float>(&outs.back()[31 * cols], &outs.back()[32 * cols]));
    EXPECT_EQ(outs.back(), outs.front());
  }
}

TEST_P(GatedTest, MatchesFloat64IncludingTheTails) {
  auto backend = MakeBackend(GetParam(), 2);
  std::mt19937 random(4);
  for (int32_t cols : {1, 8, 19, 1536}) {
    const int32_t rows = 20;
    std::vector<float> gate_up = RandomFloats(random, size_t(rows) * 2 * cols, 8.0f);
    gate_up[0] = -100.0f;  // silu underflows to 0 ...
    std::vector<float> out(size_t(rows) * cols);
    GatedActivationParams params;
    params.gate_up = RowsOf(gate_up, rows, 2 * cols);
    params.out = RowsOf(out, rows, cols);
    backend->GatedActivation(params);
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t i = 0; i < cols; ++i) {
        const double g = gate_up[size_t(r) * 2 * cols + i];
        const double expected = g / (1 + std::exp(-g)) * gate_up[size_t(r) * 2 * cols + cols + i];
        ASSERT_NEAR(out[size_t(r) * cols + i], expected, 1e-6 * (1 + std::abs(expected)));
      }
    }
  }
}

// exp over all the floats a gate can be: huge ones must not become NaN, and NaN must not become a
// number.
TEST_P(GatedTest, ExtremeGatesStayRight) {
  auto backend = MakeBackend(GetParam(), 1);
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> gate_up = {
      1e30f, -1e30f, 88.8f, -88.8f, 0.0f, -0.0f, std::nanf(""), 3.0f, 1, 1, 1, 1, 1, 1, 1, inf};
  std::vector<float> out(8);
  GatedActivationParams params;
  params.gate_up = RowsOf(gate_up, 1, 16);
  params.out = RowsOf(out, 1, 8);
  backend->GatedActivation(params);
  EXPECT_EQ(out[0], 1e30f);
  EXPECT_EQ(out[1], 0.0f);
  EXPECT_EQ(out[2], 88.8f);
  EXPECT_NEAR(out[3], 0.0f, 1e-30);
  EXPECT_EQ(out[4], 0.0f);
  EXPECT_EQ(out[5], 0.0f);
  EXPECT_TRUE(std::isnan(out[6]));
  EXPECT_EQ(out[7], inf);
}

}  // namespace
}  // namespace nibble

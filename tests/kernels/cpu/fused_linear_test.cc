// A fused linear (norm before, gate after) against the ops it is made of: the same bits.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/kernels/cpu/op_fixture.h"
#include "tests/kernels/cpu/linear_call.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {
namespace {

using quant::Format;
constexpr float kEpsilon = 1e-5f;

using Param = std::tuple<CpuIsa, CpuActivations>;

class FusedLinearTest : public testing::TestWithParam<Param> {
 protected:
  std::unique_ptr<Backend> MakeDevice(int32_t num_threads) const {
    CpuOptions options;
    options.isa = std::get<0>(GetParam());
    options.activations = std::get<1>(GetParam());
    options.num_threads = num_threads;
    return CreateCpuBackend(options).value();
  }
};
INSTANTIATE_TEST_SUITE_P(All, FusedLinearTest,
                         testing::Combine(testing::ValuesIn(AvailableIsas()),
                                          testing::Values(CpuActivations::kInt8,
                                                          CpuActivations::kInt16,
                                                          CpuActivations::kF32)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) +
                                  ActivationsSuffix(std::get<1>(info.param));
                         });

struct Weights {
  std::vector<std::unique_ptr<PackedMatrix>> owned;
  std::vector<const PackedMatrix*> all;
};

// Two weights of `rows` rows, of different formats.
Weights MakeWeights(Backend& backend, int32_t rows, int32_t cols, Format second) {
  Weights weights;
  const int32_t group = second == Format::kBf16 ? 0 : 32;
  for (const quant::RandomSpec& spec :
       {quant::RandomSpec{.rows = rows, .cols = cols, .offsets = true},
        quant::RandomSpec{.format = second, .rows = rows, .cols = cols, .group = group}}) {
    weights.owned.push_back(
        backend.Pack(quant::RandomMatrix(spec, 3 + weights.all.size())).value());
    weights.all.push_back(weights.owned.back().get());
  }
  return weights;
}

std::vector<float> Normed(Backend& backend, std::vector<float>& x, int32_t rows, int32_t cols,
                          const std::vector<float>& norm) {
  std::vector<float> normed(x.size());
  RmsNormParams params;
  params.x = RowsOf(x, rows, cols);
  params.weight = norm.data();
  params.epsilon = kEpsilon;
  params.out = RowsOf(normed, rows, cols);
  backend.RmsNorm(params);
  return normed;
}

TEST_P(FusedLinearTest, NormAndGateAreTheBitsOfTheirOps) {
  std::mt19937 random(7);
  for (const Format second : {Format::kInt8, Format::kBf16}) {
    for (const int32_t out_cols : {16, 37, 300}) {
      for (const int32_t rows : {1, 3, 8, 9, 70}) {
        SCOPED_TRACE(testing::Message() << rows << " rows, " << out_cols << " columns");
        const int32_t cols = 96;
        std::unique_ptr<Backend> backend = MakeDevice(3);
        const Weights weights = MakeWeights(*backend, out_cols, cols, second);
        std::vector<float> x = RandomFloats(random, rows * cols, 3.0f);
        const std::vector<float> norm = RandomFloats(random, cols);

        std::vector<float> normed = Normed(*backend, x, rows, cols, norm);
        std::vector<float> gate_up(rows * 2 * out_cols), expected(rows * out_cols);
        LinearParams linear;
        linear.x = RowsOf(normed, rows, cols);
        linear.weights = weights.all;
        linear.y = RowsOf(gate_up, rows, 2 * out_cols);
        backend->Linear(linear);
        GatedActivationParams gated;
        gated.gate_up = linear.y;
        gated.out = RowsOf(expected, rows, out_cols);
        backend->GatedActivation(gated);

        const std::vector<float> x_before = x;
        std::vector<float> y(rows * out_cols, -1.0f);
        LinearParams fused;
        fused.x = RowsOf(x, rows, cols);
        fused.norm_weight = norm.data();
        fused.norm_epsilon = kEpsilon;
        fused.weights = weights.all;
        fused.y = RowsOf(y, rows, out_cols);
        fused.gated = true;
        backend->Linear(fused);
        EXPECT_EQ(y, expected);
        EXPECT_EQ(x, x_before);
      }
    }
  }
}

TEST_P(FusedLinearTest, NormAloneIsTheBitsOfItsOp) {
  std::mt19937 random(8);
  const int32_t cols = 576, out_cols = 48;
  for (const int32_t rows : {1, 7, 40}) {
    std::unique_ptr<Backend> backend = MakeDevice(2);
    const Weights weights = MakeWeights(*backend, out_cols, cols, Format::kBf16);
    std::vector<float> x = RandomFloats(random, rows * cols, 3.0f);
    const std::vector<float> norm = RandomFloats(random, cols);
    const std::vector<float> bias = RandomFloats(random, 2 * out_cols);
    std::vector<float> normed = Normed(*backend, x, rows, cols, norm);
    std::vector<float> expected(rows * 2 * out_cols), y(expected.size());
    LinearParams linear;
    linear.x = RowsOf(normed, rows, cols);
    linear.weights = weights.all;
    linear.bias = bias.data();
    linear.y = RowsOf(expected, rows, 2 * out_cols);
    backend->Linear(linear);
    linear.x = RowsOf(x, rows, cols);
    linear.norm_weight = norm.data();
    linear.norm_epsilon = kEpsilon;
    linear.y = RowsOf(y, rows, 2 * out_cols);
    backend->Linear(linear);
    EXPECT_EQ(y, expected);
  }
}

}  // namespace
}  // namespace nibble

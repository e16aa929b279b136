#include "engine/quantize/methods/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <Eigen/LU>

#include "engine/quantize/methods/round_to_nearest.h"
#include "tests/engine/quantize/methods/correlated_inputs.h"
#include "tests/engine/quantize/methods/random_weights.h"

namespace nibble::quantize {
namespace {

using ::testing::HasSubstr;

class GptqTest : public ::testing::Test {
 protected:
  double RoundingError(const char* scheme) const {
    return OutputError(weight_, Dequantize(RoundToNearest(weight_, *ParseScheme(scheme), 1)),
                       hessian_);
  }
  double GptqError(const char* scheme, const GptqOptions& options) const {
    return OutputError(weight_, Dequantize(*Quantize(scheme, options)), hessian_);
  }
  absl::StatusOr<QuantizedWeight> Quantize(const char* scheme, const GptqOptions& options) const {
    return QuantizeGptq(weight_, hessian_, *ParseScheme(scheme), options);
  }

  const MatrixF weight_ = testing::NormalWeights(96, 384, 1);
  const MatrixF hessian_ = testing::HessianOf(testing::CorrelatedInputs(1000, 384, 2));
};

// The loss that the method is for: less than half of rounding's at every width and grouping.
TEST_F(GptqTest, LosesLessThanRounding) {
  for (const char* scheme : {"int4-full-g128", "int4-asym-g64", "int4-sym-channel", "int3-full-g32",
                             "int2-asym-g64", "int8-sym-channel", "nf4-b64"}) {
    const double rounding = RoundingError(scheme);
    for (ColumnOrder order :
         {ColumnOrder::kAsStored, ColumnOrder::kByActivation, ColumnOrder::kByActivationGIndex}) {
      const double error = GptqError(scheme, {.order = order});
      std::printf("%s order %d: %.3f of rounding's\n", scheme, int(order), error / rounding);
      EXPECT_LT(error, 0.6 * rounding) << scheme;
    }
  }
}

// On its own grid, with inputs that are not correlated, there is nothing to make good: the codes
// are those of rounding.
TEST_F(GptqTest, UncorrelatedInputsAreJustRounded) {
  const MatrixF identity = MatrixF::Identity(384, 384);
  for (const char* scheme : {"int4-full-g128", "int3-asym-g64"}) {
    const absl::StatusOr<QuantizedWeight> gptq =
        QuantizeGptq(weight_, identity, *ParseScheme(scheme), {});
    ASSERT_TRUE(gptq.ok());
    EXPECT_EQ(gptq->codes, RoundToNearest(weight_, *ParseScheme(scheme), 1).codes);
  }
}

// The definition, one column after the other with the inverse of what is left (OBQ), in f64 and
// without blocks, factors or permutations.
TEST_F(GptqTest, DoesWhatThePaperSays) {
  const Scheme scheme = *ParseScheme("int4-full-channel");
  const MatrixF weight = weight_.topLeftCorner(3, 160);  // two blocks of columns
  const MatrixF hessian = hessian_.topLeftCorner(160, 160);
  const absl::StatusOr<QuantizedWeight> quantized = QuantizeGptq(weight, hessian, scheme, {});
  ASSERT_TRUE(quantized.ok());
  const Grid grid(scheme);
  Eigen::MatrixXd damped = hessian.cast<double>();
  damped.diagonal().array() += 0.01 * damped.diagonal().mean();
  int differ = 0;
  for (int n = 0; n < 3; ++n) {
    const GroupParams params = grid.Fit(absl::MakeConstSpan(&weight(n, 0), 160));
    Eigen::VectorXd row = weight.row(n).cast<double>();
    for (int j = 0; j < 160; ++j) {
      const int rest = 160 - j;
      const Eigen::MatrixXd inverse = damped.bottomRightCorner(rest, rest).inverse();
      const int32_t code = grid.Code(static_cast<float>(row[j]), params);
      differ += code != quantized->codes[n * 160 + j];
      const double error = (row[j] - grid.Value(code, params)) / inverse(0, 0);
      row.tail(rest) -= error * inverse.col(0);
    }
  }
  EXPECT_LE(differ, 2);  // of 480: where f32 and f64 fall on two sides of a half
}

TEST_F(GptqTest, OrderByActivationHelpsAndKeepsGroupsApart) {
  const double stored = GptqError("int4-full-g128", {});
  EXPECT_LT(GptqError("int4-full-g128", {.order = ColumnOrder::kByActivation}), stored);
  const auto g_index = Quantize("int4-full-g128", {.order = ColumnOrder::kByActivationGIndex});
  ASSERT_EQ(g_index->group_of_column.size(), 384u);
  for (int32_t group = 0; group < 3; ++group) {
    EXPECT_EQ(std::count(g_index->group_of_column.begin(), g_index->group_of_column.end(), group),
              128);
  }
  // Group 0 holds the most active columns.
  float least_of_first = INFINITY, most_of_last = 0;
  for (int32_t k = 0; k < 384; ++k) {
    if (g_index->group_of_column[k] == 0) least_of_first = std::min(least_of_first, hessian_(k, k));
    if (g_index->group_of_column[k] == 2) most_of_last = std::max(most_of_last, hessian_(k, k));
  }
  EXPECT_GE(least_of_first, most_of_last);
  EXPECT_TRUE(
      Quantize("int4-full-g128", {.order = ColumnOrder::kByActivation})->group_of_column.empty());
}

TEST_F(GptqTest, InputsThatNeverFireGetNoWeight) {
  MatrixF hessian = hessian_;
  hessian.row(7).setZero();
  hessian.col(7).setZero();
  const auto quantized = QuantizeGptq(weight_, hessian, *ParseScheme("int4-full-g128"), {});
  ASSERT_TRUE(quantized.ok());
  EXPECT_TRUE(Dequantize(*quantized).col(7).isZero());
}

TEST_F(GptqTest, DampingSavesASingularHessian) {
  const MatrixF few = testing::CorrelatedInputs(20, 384, 5);  // 20 tokens for 384 inputs
  const MatrixF hessian = testing::HessianOf(few);
  EXPECT_TRUE(QuantizeGptq(weight_, hessian, *ParseScheme("int4-full-g128"), {}).ok());
  MatrixF broken = hessian_;
  broken(3, 4) = broken(4, 3) = 1e6f;
  EXPECT_THAT(QuantizeGptq(weight_, broken, *ParseScheme("int4-full-g128"), {}).status().message(),
              HasSubstr("damping"));
}

TEST_F(GptqTest, WhatIsNotFiniteIsRefused) {
  const Scheme scheme = *ParseScheme("int4-full-g128");
  for (const float value : {NAN, INFINITY}) {
    MatrixF broken = hessian_;
    broken(3, 3) = value;
    EXPECT_THAT(QuantizeGptq(weight_, broken, scheme, {}).status().message(),
                HasSubstr("not finite"));
  }
  MatrixF weight = weight_;
  weight(40, 0) = 3e38f;  // its error over a small diagonal
  const absl::Status status = QuantizeGptq(weight, 1e4f * hessian_, scheme, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("beyond f32"));
}

TEST_F(GptqTest, ScalesOverSeveralRowsAreRefused) {
  for (const char* scheme : {"int8-sym-tensor", "e4m3-block"}) {
    EXPECT_THAT(Quantize(scheme, {}).status().message(), HasSubstr(scheme));
  }
}

TEST_F(GptqTest, IsTheSameOnAnyNumberOfThreads) {
  const auto one = Quantize("int3-asym-g64", {.threads = 1});
  const auto five = Quantize("int3-asym-g64", {.threads = 5});
  EXPECT_EQ(one->codes, five->codes);
}

}  // namespace
}  // namespace nibble::quantize

#include "engine/quantize/sensitivity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/quantize/calibration/decoder_layer.h"
#include "tests/engine/model/tiny_decoder.h"

namespace nibble {
namespace {

using quantize::MatrixF;

const std::string kName = "blk.0.ffn_gate.weight";

class MeasureSensitivityTest : public ::testing::Test {
 protected:
  MeasureSensitivityTest()
      : source_(config_, 5),
        dense_(*quantize::LoadDense(source_, kName, config_.ffn_size, config_.hidden_size)) {
    options_.types = {GgmlType::kQ4_0, GgmlType::kQ5_1, GgmlType::kQ8_0, GgmlType::kF32};
    options_.probe = GgmlType::kQ4_0;
    // Three times the square error, as a model would that only this tensor mattered to.
    options_.damage = [this](const std::string& name,
                             const MatrixF& values) -> absl::StatusOr<double> {
      probed_.push_back(name);
      return 3 * (values - dense_).cast<double>().squaredNorm();
    };
  }

  std::vector<ProbedTensor> Tensor() const {
    return {{kName, config_.ffn_size, config_.hidden_size}};
  }

  const ModelConfig config_ = TinyConfig();
  const TinyWeights source_;
  const MatrixF dense_;
  SensitivityOptions options_;
  std::vector<std::string> probed_;
};

TEST_F(MeasureSensitivityTest, OtherTypesFollowFromTheProbesDamage) {
  int64_t told = 0;
  options_.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 1);
    told = done;
  };
  const auto all = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(probed_, std::vector<std::string>{kName});
  EXPECT_EQ(told, 1);
  const std::vector<TypeChoice>& choices = all->at(0).choices;
  ASSERT_EQ(choices.size(), 4u);
  EXPECT_EQ(choices[0].bytes, dense_.size() / 32 * 18);
  EXPECT_EQ(choices[2].bytes, dense_.size() / 32 * 34);
  EXPECT_GT(choices[0].damage, choices[1].damage);
  EXPECT_GT(choices[1].damage, 3 * choices[2].damage);
  EXPECT_EQ(choices[3].damage, 0);
  // With Q5_1 as the probe the figures are the same: the model's loss is the square error.
  options_.probe = GgmlType::kQ5_1;
  const auto again = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(again.ok());
  for (size_t i = 0; i < choices.size(); ++i) {
    EXPECT_NEAR(again->at(0).choices[i].damage, choices[i].damage, 1e-4 * choices[0].damage);
  }
}

TEST_F(MeasureSensitivityTest, IsTheSameOnAnyNumberOfThreads) {
  const auto one = MeasureSensitivity(source_, Tensor(), options_);
  options_.threads = 7;
  const auto many = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(one.ok() && many.ok());
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(one->at(0).choices[i].damage, many->at(0).choices[i].damage);
  }
}

TEST_F(MeasureSensitivityTest, ColumnsCountByTheirImportance) {
  const auto alike = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(alike.ok()) << alike.status();
  Importance importance;
  std::vector<float> sums(config_.hidden_size, 0.0f);
  sums[3] = 1;
  ASSERT_TRUE(importance.Set(kName, sums, 0).ok());
  options_.importance = &importance;
  const auto all = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(all.ok()) << all.status();
  // One column's error is nearly nothing where only it counts, so all of the damage is laid to it.
  EXPECT_GT(all->at(0).choices[0].damage, 0);
  const auto share = [](const absl::StatusOr<std::vector<TensorChoices>>& measured) {
    return measured->at(0).choices[2].damage / measured->at(0).choices[0].damage;
  };
  EXPECT_GT(std::fabs(share(all) / share(alike) - 1), 0.1) << "of one column, not of all";
  ASSERT_TRUE(importance.Set(kName, {1, 2, 3}, 0).ok());
  EXPECT_EQ(MeasureSensitivity(source_, Tensor(), options_).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MeasureSensitivityTest, DamageBelowZeroIsNoise) {
  options_.damage = [](const std::string&, const MatrixF&) { return -1e-9; };
  const auto all = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(all.ok());
  for (const TypeChoice& choice : all->at(0).choices) EXPECT_EQ(choice.damage, 0);
}

TEST_F(MeasureSensitivityTest, TypesWhoseBlocksDoNotFillARowAreLeftOut) {
  options_.types.insert(options_.types.begin(), GgmlType::kQ6_K);  // rows of 64, blocks of 256
  const auto all = MeasureSensitivity(source_, Tensor(), options_);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->at(0).choices.size(), 4u);
  options_.types = {GgmlType::kQ6_K};
  EXPECT_NE(MeasureSensitivity(source_, Tensor(), options_).status().message().find(kName),
            absl::string_view::npos);
  options_.probe = GgmlType::kQ6_K;
  EXPECT_NE(MeasureSensitivity(source_, Tensor(), options_).status().message().find("probe"),
            absl::string_view::npos);
}

TEST_F(MeasureSensitivityTest, PassesErrorsOn) {
  options_.damage = [](const std::string&, const MatrixF&) -> absl::StatusOr<double> {
    return absl::CancelledError("stopped");
  };
  EXPECT_EQ(MeasureSensitivity(source_, Tensor(), options_).status().code(),
            absl::StatusCode::kCancelled);
  const std::vector<ProbedTensor> missing = {{"no.such.weight", 64, 64}};
  EXPECT_EQ(MeasureSensitivity(source_, missing, options_).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace nibble

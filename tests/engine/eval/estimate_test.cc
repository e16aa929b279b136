#include "engine/eval/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace nibble {
namespace {

TEST(EstimateTest, TheMeanOfFourNumbers) {
  const Estimate estimate = EstimateMean({1, 2, 3, 6});
  EXPECT_EQ(estimate.mean, 3);
  EXPECT_NEAR(estimate.standard_error, std::sqrt(14.0 / 3 / 4), 1e-15);
  const Estimate from_sums = EstimateMean(12, 1 + 4 + 9 + 36, 4);
  EXPECT_EQ(from_sums.mean, 3);
  EXPECT_NEAR(from_sums.standard_error, estimate.standard_error, 1e-15);
}

TEST(EstimateTest, OneSampleHasNoError) {
  EXPECT_EQ(EstimateMean({5}).standard_error, 0);
  EXPECT_EQ(EstimateMean(5, 25, 1).standard_error, 0);
  EXPECT_EQ(EstimateRootMeanSquare({-5}).mean, 5);
  EXPECT_EQ(EstimateRootMeanSquare({-5}).standard_error, 0);
  EXPECT_EQ(EstimateQuantile({5}, 0.99).mean, 5);
  EXPECT_EQ(EstimateRootMeanSquare({0, 0}).standard_error, 0) << "no division by the root";
}

TEST(EstimateTest, QuantilesLieBetweenRanks) {
  const std::vector<double> sorted = {0, 10, 20, 30};
  EXPECT_EQ(EstimateQuantile(sorted, 0).mean, 0);
  EXPECT_EQ(EstimateQuantile(sorted, 0.5).mean, 15);
  EXPECT_NEAR(EstimateQuantile(sorted, 0.9).mean, 27, 1e-12);
  EXPECT_EQ(EstimateQuantile(sorted, 1).mean, 30);
  EXPECT_EQ(EstimateQuantile(sorted, 1).standard_error, 0);
}

// The claim of an error: over many draws the estimates scatter by what each of them says.
TEST(EstimateTest, ErrorsAreTheScatterOfRepeatedDraws) {
  constexpr uint32_t kSeed = 11;
  constexpr int kDraws = 400, kSamples = 400;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  std::exponential_distribution<double> exponential(1);
  std::vector<double> values[3], claims[3];
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<double> samples(kSamples);
    for (double& sample : samples) sample = exponential(random);
    std::sort(samples.begin(), samples.end());
    const Estimate estimates[3] = {EstimateMean(samples), EstimateRootMeanSquare(samples),
                                   EstimateQuantile(samples, 0.5)};
    for (int i = 0; i < 3; ++i) {
      values[i].push_back(estimates[i].mean);
      claims[i].push_back(estimates[i].standard_error);
    }
  }
  for (int i = 0; i < 3; ++i) {
    const double scatter = EstimateMean(values[i]).standard_error * std::sqrt(double{kDraws});
    EXPECT_NEAR(EstimateMean(claims[i]).mean / scatter, 1, 0.15) << i;
  }
  EXPECT_NEAR(EstimateMean(values[1]).mean, std::sqrt(2.0), 0.02);
  EXPECT_NEAR(EstimateMean(values[2]).mean, std::log(2.0), 0.02);
}

}  // namespace
}  // namespace nibble

// Each rule on data for which it is the right one, judged on values it has not seen.
#include "engine/quantize/methods/activation_range.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>

namespace nibble::quantize {
namespace {

constexpr RangeRule kRules[] = {RangeRule::kMinMax, RangeRule::kPercentile, RangeRule::kMse,
                                RangeRule::kEntropy};

using Draw = std::function<float(std::mt19937&)>;

std::vector<float> Sample(const Draw& draw, uint32_t seed, int n = 200000) {
  std::mt19937 random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = draw(random);
  return values;
}

float Rounded(float value, float range, int bits) {
  const auto levels = static_cast<float>((1 << (bits - 1)) - 1);
  return std::nearbyint(std::clamp(value / range * levels, -levels, levels)) * range / levels;
}

// The mean of |error|^power, of values that `keep` says.
double Error(const std::vector<float>& values, float range, int bits, double power, float keep) {
  double sum = 0;
  int n = 0;
  for (float value : values) {
    if (std::fabs(value) > keep) continue;
    sum += std::pow(std::fabs(value - Rounded(value, range, bits)), power);
    ++n;
  }
  return sum / n;
}

std::map<RangeRule, float> Ranges(const std::vector<float>& values, int bits) {
  MagnitudeHistogram histogram;
  for (size_t i = 0; i < values.size(); i += 1000) {
    histogram.Add(absl::MakeConstSpan(values).subspan(i, 1000));
  }
  std::map<RangeRule, float> ranges;
  for (RangeRule rule : kRules) ranges[rule] = ChooseRange(histogram, rule, bits);
  std::printf("min/max %.3f  percentile %.3f  mse %.3f  entropy %.3f\n", ranges[kRules[0]],
              ranges[kRules[1]], ranges[kRules[2]], ranges[kRules[3]]);
  return ranges;
}

// Bounded values of which the rare large ones count (a gate that is nearly always shut): nothing
// may be cut, and min/max alone does not.
TEST(RangeRuleTest, MinMaxIsRightWhereRareLargeValuesCount) {
  const Draw draw = [](std::mt19937& random) {
    const float open = std::uniform_real_distribution<float>(0, 1)(random);
    return open < 5e-5f ? 8.0f + 2 * std::uniform_real_distribution<float>(0, 1)(random)
                        : std::uniform_real_distribution<float>(0, 2)(random);
  };
  const auto ranges = Ranges(Sample(draw, 1), 8);
  std::vector<float> large;
  for (float value : Sample(draw, 2, 2000000)) {
    if (value > 8) large.push_back(value);
  }
  ASSERT_GT(large.size(), 20u);
  const double best = Error(large, ranges.at(RangeRule::kMinMax), 8, 1, 100);
  EXPECT_LT(best, 0.1);
  EXPECT_GT(Error(large, ranges.at(RangeRule::kPercentile), 8, 1, 100), 10 * best);
}

// One value in 40,000 is a fault, a thousand times too large. Squared errors take it seriously.
TEST(RangeRuleTest, PercentileIsRightWhereRareValuesAreFaults) {
  const Draw draw = [](std::mt19937& random) {
    const bool fault = std::uniform_int_distribution<int>(0, 39999)(random) == 0;
    return std::normal_distribution<float>(0, 1)(random) * (fault ? 5000.0f : 1.0f);
  };
  const auto ranges = Ranges(Sample(draw, 3), 8);
  const std::vector<float> unseen = Sample(draw, 4);
  const auto error = [&](RangeRule rule) { return Error(unseen, ranges.at(rule), 8, 2, 6); };
  EXPECT_LT(error(RangeRule::kPercentile), 0.01);
  EXPECT_GT(error(RangeRule::kMinMax), 10 * error(RangeRule::kPercentile));
  EXPECT_GT(error(RangeRule::kMse), 10 * error(RangeRule::kPercentile));
}

// Few codes and a smooth tail: how much to cut is what the squared error says.
TEST(RangeRuleTest, MseIsRightForFewCodes) {
  const Draw draw = [](std::mt19937& random) {
    return std::normal_distribution<float>(0, 1)(random);
  };
  const auto ranges = Ranges(Sample(draw, 5), 4);
  const std::vector<float> unseen = Sample(draw, 6);
  const auto error = [&](RangeRule rule) { return Error(unseen, ranges.at(rule), 4, 2, 100); };
  EXPECT_LT(error(RangeRule::kMse), 0.6 * error(RangeRule::kMinMax));
  EXPECT_LT(error(RangeRule::kMse), 0.8 * error(RangeRule::kPercentile));
  EXPECT_LE(error(RangeRule::kMse), error(RangeRule::kEntropy));
  EXPECT_NEAR(ranges.at(RangeRule::kMse), 2.5, 0.35);  // the optimum for a normal and 15 levels
}

// A sharp peak where nearly everything is and a long thin tail: the information is in the peak, and
// the most of it is left in codes whose range ends early. Judged on values it has not seen.
TEST(RangeRuleTest, EntropyIsRightWhereTheShapeOfTheBulkCounts) {
  const Draw draw = [](std::mt19937& random) {
    const bool tail = std::uniform_real_distribution<float>(0, 1)(random) < 0.002f;
    const float value = std::exponential_distribution<float>(tail ? 0.05f : 4.0f)(random);
    return std::uniform_int_distribution<int>(0, 1)(random) != 0 ? value : -value;
  };
  const auto ranges = Ranges(Sample(draw, 7), 8);
  const std::vector<float> unseen = Sample(draw, 8);
  // Information that is left: the entropy of the codes, which is that of code and value together.
  const auto information = [&](RangeRule rule) {
    std::map<float, double> counts;
    for (float value : unseen) ++counts[Rounded(value, ranges.at(rule), 8)];
    double entropy = 0;
    for (const auto& [code, count] : counts) {
      entropy -= count / unseen.size() * std::log2(count / unseen.size());
    }
    return entropy;
  };
  for (RangeRule rule : {RangeRule::kMinMax, RangeRule::kPercentile, RangeRule::kMse}) {
    std::printf("bits left: entropy %.3f, rule %d %.3f\n", information(RangeRule::kEntropy),
                static_cast<int>(rule), information(rule));
    EXPECT_GT(information(RangeRule::kEntropy), information(rule) + 0.2);
  }
}

TEST(MagnitudeHistogramTest, DoesNotDependOnTheOrder) {
  std::vector<float> values = Sample(
      [](std::mt19937& random) { return std::exp(std::normal_distribution<float>(0, 2)(random)); },
      9, 5000);
  MagnitudeHistogram up, down;
  std::sort(values.begin(), values.end());
  for (float value : values) up.Add({&value, 1});
  std::reverse(values.begin(), values.end());
  down.Add(values);
  EXPECT_EQ(up.bin_width(), down.bin_width());
  EXPECT_EQ(up.bins(), down.bins());
  EXPECT_EQ(up.max(), values[0]);
  EXPECT_EQ(up.count(), 5000);
}

TEST(RangeRuleTest, ZerosHaveNoRangeAndNamesAreKnown) {
  MagnitudeHistogram zeros;
  zeros.Add(std::vector<float>(10));
  for (RangeRule rule : kRules) EXPECT_EQ(ChooseRange(zeros, rule, 8), 0);
  EXPECT_EQ(*ParseRangeRule("entropy"), RangeRule::kEntropy);
  EXPECT_FALSE(ParseRangeRule("kl2").ok());
}

}  // namespace
}  // namespace nibble::quantize

// Divergence against sums written down directly, on runners that answer logits by a formula: what
// is compared, which positions count, the statistics, and what is refused.
#include "engine/eval/divergence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/engine/eval/formula_logits.h"

namespace nibble {
namespace {

using testing::HasSubstr;

using FormulaRunner = FormulaLogits;

constexpr int32_t kVocab = kFormulaVocab;

std::vector<int32_t> Text(int32_t n) {
  std::vector<int32_t> ids(n);
  for (int32_t i = 0; i < n; ++i) ids[i] = (i * i + 3 * i) % kVocab;
  return ids;
}

WindowOptions Options(int32_t window, int32_t skip, int32_t bos_id = -1) {
  WindowOptions options;
  options.window = window;
  options.skip = skip;
  options.bos_id = bos_id;
  return options;
}

std::vector<double> Logprobs(int32_t token, int32_t position, float bend) {
  std::vector<double> all(kVocab);
  double sum = 0;
  for (int32_t w = 0; w < kVocab; ++w) {
    all[w] = FormulaRunner::Logit(token, position, w, bend);
    sum += std::exp(all[w]);
  }
  for (double& x : all) x -= std::log(sum);
  return all;
}

struct Expected {
  std::vector<double> kl, delta, change;
  double base_nll = 0, candidate_nll = 0;
  int64_t same = 0;
};

Expected ExpectedOf(std::vector<int32_t> ids, const WindowOptions& options, float base_bend,
                    float bend) {
  Expected expected;
  for (size_t first = 0; first + options.window <= ids.size(); first += options.Stride()) {
    if (options.bos_id >= 0) ids[first] = options.bos_id;
    const bool overlaps = first > 0 && options.Stride() != options.window;
    for (int32_t target = overlaps ? options.window - options.stride : options.skip;
         target < options.window; ++target) {
      const int32_t token = ids[first + target - 1], next = ids[first + target];
      const std::vector<double> p = Logprobs(token, target - 1, base_bend);
      const std::vector<double> q = Logprobs(token, target - 1, bend);
      double kl = 0;
      for (int32_t w = 0; w < kVocab; ++w) kl += std::exp(p[w]) * (p[w] - q[w]);
      expected.kl.push_back(kl);
      expected.delta.push_back(q[next] - p[next]);
      expected.change.push_back(std::exp(q[next]) - std::exp(p[next]));
      expected.base_nll -= p[next];
      expected.candidate_nll -= q[next];
      expected.same += std::max_element(p.begin(), p.end()) - p.begin() ==
                       std::max_element(q.begin(), q.end()) - q.begin();
    }
  }
  return expected;
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum / values.size();
}

TEST(CompareLogitsTest, MatchesTheClosedFormOfTwoWords) {
  // p = (0.8, 0.2), q = (0.5, 0.5), the rows shifted: a softmax does not see a shift.
  const float log4 = std::log(4.0f);
  const TokenDivergence token = CompareLogits({log4 + 3, 3.0f}, {-7.0f, -7.0f}, 1);
  EXPECT_NEAR(token.kl, 0.8 * std::log(1.6) + 0.2 * std::log(0.4), 1e-6);
  EXPECT_NEAR(token.base_logprob, std::log(0.2), 1e-6);
  EXPECT_NEAR(token.candidate_logprob, std::log(0.5), 1e-12);
  EXPECT_TRUE(token.same_top) << "a tie goes to the lowest id";
  // KL is not symmetric: this is the other direction.
  EXPECT_NEAR(CompareLogits({0.0f, 0.0f}, {log4, 0.0f}, 0).kl,
              0.5 * std::log(0.625) + 0.5 * std::log(2.5), 1e-6);
}

TEST(CompareLogitsTest, TheSameRowDivergesByExactlyNothing) {
  std::vector<float> row;
  for (int32_t w = 0; w < 50000; ++w) row.push_back(0.01f * static_cast<float>(w * 37 % 1999));
  const TokenDivergence token = CompareLogits(row, row, 77);
  EXPECT_EQ(token.kl, 0.0);
  EXPECT_EQ(token.base_logprob, token.candidate_logprob);
  EXPECT_TRUE(token.same_top);
}

TEST(CompareLogitsTest, LargeLogitsNeitherOverflowNorVanish) {
  const TokenDivergence token = CompareLogits({3e4f, 3e4f}, {-3e4f, -3e4f + 1}, 0);
  EXPECT_NEAR(token.kl, -std::log(2.0) + std::log1p(std::exp(1.0)) - 0.5, 1e-9);
}

TEST(DivergenceTest, FollowsTheProtocolHoweverTheChunksAreCut) {
  for (int32_t max_batch_tokens : {1, 7, 19, 64}) {
    for (int32_t skip : {1, 11, 19}) {
      for (int32_t bos_id : {-1, 5}) {
        const WindowOptions options = Options(20, skip, bos_id);
        FormulaRunner base(0.0f, 64), candidate(0.04f, max_batch_tokens);
        const auto result = EvaluateDivergence(base, candidate, Text(87), options, nullptr);
        ASSERT_TRUE(result.ok()) << result.status();
        Expected expected = ExpectedOf(Text(87), options, 0.0f, 0.04f);
        EXPECT_EQ(result->windows, 4);
        ASSERT_EQ(result->tokens, static_cast<int64_t>(expected.kl.size()));
        EXPECT_NEAR(result->kl.mean, Mean(expected.kl), 1e-12);
        EXPECT_NEAR(result->delta.mean, Mean(expected.delta), 1e-12);
        EXPECT_NEAR(result->base_nll.mean, expected.base_nll / result->tokens, 1e-12);
        EXPECT_NEAR(result->candidate_nll.mean, expected.candidate_nll / result->tokens, 1e-12);
        EXPECT_NEAR(result->agreement.mean, double(expected.same) / result->tokens, 1e-12);
        EXPECT_NEAR(result->kl_max, *std::max_element(expected.kl.begin(), expected.kl.end()),
                    1e-12);
        EXPECT_EQ(base.num_steps, candidate.num_steps) << "in lockstep";
      }
    }
  }
}

// Overlapping windows score every token once, and each but the first with as much past.
TEST(DivergenceTest, AStrideScoresTheLastOfEachWindow) {
  for (int32_t stride : {1, 6, 10, 19, 20}) {
    for (int32_t max_batch_tokens : {1, 7, 64}) {
      WindowOptions options = Options(20, 1, 5);
      options.stride = stride;
      FormulaRunner base(0.0f), candidate(0.04f, max_batch_tokens);
      const auto result = EvaluateDivergence(base, candidate, Text(87), options, nullptr);
      ASSERT_TRUE(result.ok()) << result.status();
      const Expected expected = ExpectedOf(Text(87), options, 0.0f, 0.04f);
      EXPECT_EQ(result->windows, (87 - 20) / stride + 1);
      ASSERT_EQ(result->tokens, static_cast<int64_t>(expected.kl.size()));
      if (stride < 20) {
        EXPECT_EQ(result->tokens, 19 + (87 - 20) / stride * stride) << "none twice, none left out";
      }
      EXPECT_NEAR(result->kl.mean, Mean(expected.kl), 1e-12);
      EXPECT_NEAR(result->candidate_nll.mean, expected.candidate_nll / result->tokens, 1e-12);
    }
  }
}

TEST(DivergenceTest, ErrorsAndQuantilesAreThoseOfTheTokens) {
  const WindowOptions options = Options(20, 1);
  FormulaRunner base(0.0f), candidate(0.3f);
  const auto result = EvaluateDivergence(base, candidate, Text(100), options, nullptr).value();
  Expected expected = ExpectedOf(Text(100), options, 0.0f, 0.3f);
  const double n = static_cast<double>(expected.kl.size());  // 95: 0.5 * 94 = 47 is a rank
  double squares = 0;
  for (double kl : expected.kl) squares += (kl - result.kl.mean) * (kl - result.kl.mean);
  EXPECT_NEAR(result.kl.standard_error, std::sqrt(squares / (n - 1) / n), 1e-12);
  const double share = result.agreement.mean;
  EXPECT_GT(share, 0);
  EXPECT_LT(share, 1);
  EXPECT_NEAR(result.agreement.standard_error, std::sqrt(share * (1 - share) / n), 1e-12);
  EXPECT_GT(result.delta.standard_error, 0);
  EXPECT_NEAR(result.probability_rms.mean, EstimateRootMeanSquare(expected.change).mean, 1e-12);
  EXPECT_GT(result.probability_rms.standard_error, 0);
  const Estimate ratio = PerplexityRatio(result);
  EXPECT_NEAR(ratio.mean, std::exp(result.candidate_nll.mean - result.base_nll.mean), 1e-12);
  EXPECT_LT(ratio.standard_error / ratio.mean, result.candidate_nll.standard_error) << "paired";
  std::sort(expected.kl.begin(), expected.kl.end());
  EXPECT_NEAR(result.kl_median.mean, expected.kl[47], 1e-12);
  EXPECT_NEAR(result.kl_p90.mean, 0.4 * expected.kl[84] + 0.6 * expected.kl[85], 1e-9);
  EXPECT_NEAR(result.kl_p99.mean, 0.94 * expected.kl[93] + 0.06 * expected.kl[94], 1e-9);
}

TEST(DivergenceTest, ARunnerDoesNotDivergeFromItself) {
  FormulaRunner base(0.1f), candidate(0.1f);
  const auto result =
      EvaluateDivergence(base, candidate, Text(60), Options(20, 11), nullptr).value();
  EXPECT_EQ(result.kl.mean, 0);
  EXPECT_EQ(result.kl_max, 0);
  EXPECT_EQ(result.agreement.mean, 1);
  EXPECT_EQ(result.agreement.standard_error, 0);
  EXPECT_EQ(result.delta.mean, 0);
  EXPECT_EQ(result.base_nll.mean, result.candidate_nll.mean);
  EXPECT_EQ(result.probability_rms.mean, 0);
}

TEST(DivergenceTest, OneTokenHasNoStandardError) {
  FormulaRunner base(0.0f), candidate(0.1f);
  const auto result =
      EvaluateDivergence(base, candidate, Text(20), Options(20, 19), nullptr).value();
  EXPECT_EQ(result.tokens, 1);
  EXPECT_EQ(result.kl.standard_error, 0);
  EXPECT_EQ(result.kl_median.mean, result.kl_max);
}

TEST(DivergenceTest, ReportsProgressInWindows) {
  FormulaRunner base(0.0f), candidate(0.1f);
  std::vector<std::pair<int64_t, int64_t>> heard;
  ASSERT_TRUE(
      EvaluateDivergence(base, candidate, Text(59), Options(20, 1),
                         [&](int64_t done, int64_t total) { heard.emplace_back(done, total); })
          .ok());
  EXPECT_THAT(heard, testing::ElementsAre(testing::Pair(1, 2), testing::Pair(2, 2)));
}

TEST(DivergenceTest, LogitsThatAreNotFiniteAreNamed) {
  for (float poison :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (bool in_base : {true, false}) {
      FormulaRunner base(0.0f), candidate(0.1f);
      FormulaRunner& broken = in_base ? base : candidate;
      broken.poisoned_position = 13;
      broken.poison = poison;
      const auto result =
          EvaluateDivergence(base, candidate, Text(60), Options(20, 1), nullptr).status();
      EXPECT_EQ(result.code(), absl::StatusCode::kInternal) << poison;
      EXPECT_THAT(std::string(result.message()),
                  HasSubstr(in_base ? "the base's logits at position 13 of window 0"
                                    : "the candidate's logits at position 13 of window 0"));
    }
  }
}

TEST(DivergenceTest, RefusesWhatCannotBeCompared) {
  FormulaRunner base(0.0f), candidate(0.1f), other(0.1f, 16, kVocab + 1);
  const absl::Status vocabulary =
      EvaluateDivergence(base, other, Text(60), Options(20, 1), nullptr).status();
  EXPECT_EQ(vocabulary.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(vocabulary.message()), HasSubstr("23 words, the candidate's 24"));
  for (const WindowOptions& options : {Options(65, 1), Options(1, 1), Options(20, 0),
                                       Options(20, 20), Options(20, 1, kVocab), Options(61, 1)}) {
    EXPECT_EQ(EvaluateDivergence(base, candidate, Text(60), options, nullptr).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(base.num_steps + candidate.num_steps + other.num_steps, 0);
}

TEST(DivergenceTest, ADeviceErrorEndsIt) {
  for (bool in_base : {true, false}) {
    FormulaRunner base(0.0f), candidate(0.1f);
    (in_base ? base : candidate).fail_at = 2;
    EXPECT_EQ(
        EvaluateDivergence(base, candidate, Text(60), Options(20, 1), nullptr).status().message(),
        "the device is gone");
  }
}

}  // namespace
}  // namespace nibble

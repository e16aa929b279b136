// The protocol of perplexity, on a runner that answers from a formula: which positions count, how
// windows are cut, and that nothing depends on how many tokens fit a step.
#include "engine/eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

namespace nibble {
namespace {

using testing::HasSubstr;

// log p(token | previous token, position) by formula; keeps what was run, and checks each batch as
// a runner would.
class FormulaRunner : public ModelRunner {
 public:
  explicit FormulaRunner(RunnerLimits limits) : limits_(limits) {}
  RunnerLimits limits() const override { return limits_; }

  static float Logprob(int32_t previous, int32_t token, int32_t position) {
    return -0.25f * static_cast<float>((previous * 7 + token * 3 + position) % 16 + 1);
  }

  absl::StatusOr<StepResult> Run(const Batch& batch) override {
    ++num_steps;
    if (num_steps == fail_at) return absl::InternalError("the device is gone");
    StepResult result;
    int32_t num_tokens = 0;
    std::set<int32_t> blocks;
    for (const BatchRow& row : batch.rows) {
      EXPECT_FALSE(row.sample);
      EXPECT_NE(row.sampling, nullptr);
      EXPECT_GE(row.num_scheduled, 1);
      num_tokens += row.num_scheduled;
      for (int32_t block : row.block_table) {
        EXPECT_TRUE(block >= 0 && block < limits_.num_blocks);
        EXPECT_TRUE(blocks.insert(block).second) << "two windows share block " << block;
      }
      EXPECT_GE(static_cast<int32_t>(row.block_table.size()) * limits_.block_size,
                row.num_computed + row.num_scheduled);
      EXPECT_EQ(row.num_computed, computed_[row.sequence_id] % row.prompt_length) << "a gap";
      computed_[row.sequence_id] += row.num_scheduled;
      RowResult& out = result.rows.emplace_back();
      for (int32_t p = row.num_computed; p < row.num_computed + row.num_scheduled; ++p) {
        if (p + 1 >= row.prompt_length || p + 1 <= row.prompt_scored) continue;
        out.prompt_logprobs.emplace_back();
        out.prompt_logprobs.back().id = row.tokens[p + 1];
        out.prompt_logprobs.back().logprob = Logprob(row.tokens[p], row.tokens[p + 1], p + 1);
      }
    }
    EXPECT_EQ(num_tokens, batch.num_tokens);
    EXPECT_LE(num_tokens, limits_.max_batch_tokens);
    EXPECT_LE(static_cast<int32_t>(batch.rows.size()), limits_.max_sequences);
    return result;
  }

  int num_steps = 0;
  int fail_at = -1;

 private:
  RunnerLimits limits_;
  std::map<uint64_t, int32_t> computed_;
};

RunnerLimits Limits(int32_t max_batch_tokens, int32_t max_sequences = 8) {
  RunnerLimits limits;
  limits.vocab_size = 100;
  limits.max_context = 64;
  limits.block_size = 8;
  limits.num_blocks = 40;
  limits.max_batch_tokens = max_batch_tokens;
  limits.max_sequences = max_sequences;
  return limits;
}

std::vector<int32_t> Text(int32_t n) {
  std::vector<int32_t> ids(n);
  for (int32_t i = 0; i < n; ++i) ids[i] = (i * i + 3 * i) % 100;
  return ids;
}

double ExpectedNll(std::vector<int32_t> ids, const PerplexityOptions& options, int64_t* tokens) {
  double nll = 0;
  *tokens = 0;
  for (size_t first = 0; first + options.window <= ids.size(); first += options.Stride()) {
    if (options.bos_id >= 0) ids[first] = options.bos_id;
    const bool overlaps = first > 0 && options.Stride() != options.window;
    for (int32_t p = overlaps ? options.window - options.stride : options.skip; p < options.window;
         ++p, ++*tokens) {
      nll -= FormulaRunner::Logprob(ids[first + p - 1], ids[first + p], p);
    }
  }
  return nll / *tokens;
}

TEST(PerplexityTest, FollowsTheProtocolHoweverTheStepsAreCut) {
  for (int32_t max_batch_tokens : {1, 5, 20, 21, 64, 1000}) {
    for (int32_t skip : {1, 10, 19}) {
      for (int32_t bos_id : {-1, 0, 42}) {
        for (int32_t num_ids : {20, 39, 167}) {
          FormulaRunner runner(Limits(max_batch_tokens));
          PerplexityOptions options;
          options.window = 20;
          options.skip = skip;
          options.bos_id = bos_id;
          int64_t tokens = 0;
          const double expected = ExpectedNll(Text(num_ids), options, &tokens);
          const auto result = EvaluatePerplexity(runner, Text(num_ids), options, nullptr);
          ASSERT_TRUE(result.ok()) << result.status();
          EXPECT_EQ(result->windows, num_ids / 20);
          EXPECT_EQ(result->tokens, tokens);
          EXPECT_NEAR(result->nll, expected, 1e-12);
          EXPECT_NEAR(result->perplexity, std::exp(expected), 1e-9);
        }
      }
    }
  }
}

TEST(PerplexityTest, AStrideScoresTheLastOfEachWindow) {
  for (int32_t stride : {1, 6, 19, 20}) {
    for (int32_t max_batch_tokens : {1, 21, 1000}) {
      FormulaRunner runner(Limits(max_batch_tokens));
      PerplexityOptions options;
      options.window = 20;
      options.stride = stride;
      options.bos_id = 42;
      int64_t tokens = 0;
      const double expected = ExpectedNll(Text(167), options, &tokens);
      const auto result = EvaluatePerplexity(runner, Text(167), options, nullptr);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->tokens, tokens);
      EXPECT_EQ(result->windows, (167 - 20) / stride + 1);
      EXPECT_NEAR(result->nll, expected, 1e-12);
    }
  }
}

// Same bits: a window's sum does not depend on what ran beside it.
TEST(PerplexityTest, StepsDoNotChangeTheResult) {
  PerplexityOptions options;
  options.window = 20;
  FormulaRunner one(Limits(1)), many(Limits(1000));
  const auto a = EvaluatePerplexity(one, Text(300), options, nullptr);
  const auto b = EvaluatePerplexity(many, Text(300), options, nullptr);
  EXPECT_EQ(a->nll, b->nll);
  EXPECT_EQ(a->nll_error, b->nll_error);
}

TEST(PerplexityTest, TheErrorIsThatOfTheTokens) {
  FormulaRunner runner(Limits(100));
  PerplexityOptions options;
  options.window = 20;
  std::vector<double> nlls;
  const std::vector<int32_t> ids = Text(200);
  for (size_t first = 0; first < 200; first += 20) {
    for (int32_t p = 1; p < 20; ++p) {
      nlls.push_back(-FormulaRunner::Logprob(ids[first + p - 1], ids[first + p], p));
    }
  }
  const auto result = EvaluatePerplexity(runner, ids, options, nullptr);
  EXPECT_NEAR(result->nll_error, EstimateMean(nlls).standard_error, 1e-12);
}

TEST(PerplexityTest, RunsSeveralWindowsInAStep) {
  FormulaRunner runner(Limits(100));
  PerplexityOptions options;
  options.window = 20;
  ASSERT_TRUE(EvaluatePerplexity(runner, Text(200), options, nullptr).ok());
  EXPECT_EQ(runner.num_steps, 2) << "ten windows, five a step";
}

TEST(PerplexityTest, NeverRunsMoreWindowsThanSequencesOrBlocks) {
  PerplexityOptions options;
  options.window = 20;
  FormulaRunner few_sequences(Limits(1000, 3));
  ASSERT_TRUE(EvaluatePerplexity(few_sequences, Text(200), options, nullptr).ok());
  EXPECT_EQ(few_sequences.num_steps, 4);
  RunnerLimits limits = Limits(1000);
  limits.num_blocks = 8;  // two windows of three blocks
  FormulaRunner few_blocks(limits);
  ASSERT_TRUE(EvaluatePerplexity(few_blocks, Text(200), options, nullptr).ok());
  EXPECT_EQ(few_blocks.num_steps, 5);
}

TEST(PerplexityTest, ReportsProgressInWindows) {
  FormulaRunner runner(Limits(40));
  PerplexityOptions options;
  options.window = 20;
  std::vector<std::pair<int64_t, int64_t>> heard;
  ASSERT_TRUE(EvaluatePerplexity(runner, Text(100), options, [&](int64_t done, int64_t total) {
                heard.emplace_back(done, total);
              }).ok());
  EXPECT_THAT(heard,
              testing::ElementsAre(testing::Pair(1, 5), testing::Pair(2, 5), testing::Pair(3, 5),
                                   testing::Pair(4, 5), testing::Pair(5, 5)));
}

TEST(PerplexityTest, RefusesBadOptionsByName) {
  FormulaRunner runner(Limits(40));
  const auto message = [&](int32_t window, int32_t skip, int32_t bos_id, int32_t num_ids) {
    PerplexityOptions options;
    options.window = window;
    options.skip = skip;
    options.bos_id = bos_id;
    const auto result = EvaluatePerplexity(runner, Text(num_ids), options, nullptr);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_THAT(message(1, 1, -1, 100), HasSubstr("window is 1"));
  EXPECT_THAT(message(65, 1, -1, 100), HasSubstr("context of 64"));
  EXPECT_THAT(message(20, 0, -1, 100), HasSubstr("skip is 0"));
  EXPECT_THAT(message(20, 20, -1, 100), HasSubstr("skip is 20"));
  EXPECT_THAT(message(20, 1, 100, 100), HasSubstr("bos_id is 100"));
  EXPECT_THAT(message(20, 1, -1, 19), HasSubstr("19 tokens"));
  PerplexityOptions options;
  options.window = 20;
  options.stride = 21;
  EXPECT_THAT(std::string(EvaluatePerplexity(runner, Text(99), options, {}).status().message()),
              HasSubstr("stride is 21"));
  options.stride = 15;
  options.skip = 6;
  EXPECT_THAT(std::string(EvaluatePerplexity(runner, Text(99), options, {}).status().message()),
              HasSubstr("skip is 6, with a stride of 15 the range is 1 to window - stride = 5"));
  EXPECT_EQ(runner.num_steps, 0);
}

TEST(PerplexityTest, ADeviceErrorEndsIt) {
  FormulaRunner runner(Limits(40));
  runner.fail_at = 2;
  PerplexityOptions options;
  options.window = 20;
  const auto result = EvaluatePerplexity(runner, Text(200), options, nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(runner.num_steps, 2);
}

}  // namespace
}  // namespace nibble

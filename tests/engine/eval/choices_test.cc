// Multiple choice on a runner that answers from a formula: what is scored, which choice wins, and
// that nothing depends on how much fits a step.
#include "engine/eval/choices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace nibble {
namespace {

using testing::HasSubstr;

// log p(token | previous) = -token / 8: small ids are likely.
class FormulaRunner : public ModelRunner {
 public:
  explicit FormulaRunner(int32_t max_batch_tokens = 64, int32_t max_sequences = 4) {
    limits_.vocab_size = 100;
    limits_.max_context = 32;
    limits_.block_size = 8;
    limits_.num_blocks = 16;
    limits_.max_batch_tokens = max_batch_tokens;
    limits_.max_sequences = max_sequences;
  }
  RunnerLimits limits() const override { return limits_; }

  absl::StatusOr<StepResult> Run(const Batch& batch) override {
    if (fail) return absl::InternalError("the device is gone");
    StepResult result;
    int32_t num_tokens = 0;
    for (const BatchRow& row : batch.rows) {
      // A new sequence in a slot begins at 0, the same one goes on without a gap.
      EXPECT_TRUE(row.num_computed == 0 || row.num_computed == computed_[row.sequence_id]);
      computed_[row.sequence_id] = row.num_computed + row.num_scheduled;
      EXPECT_GE(static_cast<int32_t>(row.block_table.size()) * 8,
                row.num_computed + row.num_scheduled);
      num_tokens += row.num_scheduled;
      RowResult& out = result.rows.emplace_back();
      for (int32_t p = row.num_computed; p < row.num_computed + row.num_scheduled; ++p) {
        if (p + 1 >= row.prompt_length || p + 1 <= row.prompt_scored) continue;
        out.prompt_logprobs.emplace_back();
        out.prompt_logprobs.back().id = row.tokens[p + 1];
        out.prompt_logprobs.back().logprob = -static_cast<float>(row.tokens[p + 1]) / 8;
      }
    }
    EXPECT_EQ(num_tokens, batch.num_tokens);
    EXPECT_LE(num_tokens, limits_.max_batch_tokens);
    EXPECT_LE(static_cast<int32_t>(batch.rows.size()), limits_.max_sequences);
    return result;
  }

  bool fail = false;

 private:
  RunnerLimits limits_;
  std::map<uint64_t, int32_t> computed_;
};

// Context 1 2, then the ending.
Choice Ending(std::vector<int32_t> ids, int32_t num_characters) {
  ids.insert(ids.begin(), {1, 2});
  return {ids, 2, num_characters};
}

TEST(ChoicesTest, TheLikeliestSumWinsAndTheLikeliestCharacterByLength) {
  // Sums: -1 and -1.5; a character: -0.5 and -0.15.
  const ChoiceQuestion question{{Ending({8}, 2), Ending({4, 4, 4}, 10)}, 1};
  FormulaRunner runner;
  const auto result = EvaluateChoices(runner, {&question, 1}, nullptr).value();
  EXPECT_EQ(result.accuracy.mean, 0);
  EXPECT_EQ(result.accuracy_by_length.mean, 1);
  EXPECT_EQ(result.questions, 1);
  EXPECT_EQ(result.tokens, 4);
}

// The context's tokens, as unlikely as they may be, are no choice's fault; the first of equals
// wins.
TEST(ChoicesTest, OnlyTheEndingCounts) {
  Choice long_context{{90, 90, 90, 5}, 3, 1};
  Choice short_context{{1, 6}, 1, 1};
  FormulaRunner runner;
  const ChoiceQuestion question{{short_context, long_context}, 1};
  EXPECT_EQ(EvaluateChoices(runner, {&question, 1}, nullptr)->accuracy.mean, 1);
  const ChoiceQuestion equals{{Ending({7}, 1), Ending({7}, 1)}, 0};
  EXPECT_EQ(EvaluateChoices(runner, {&equals, 1}, nullptr)->accuracy.mean, 1);
}

std::vector<ChoiceQuestion> RandomQuestions(int n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<ChoiceQuestion> questions(n);
  for (ChoiceQuestion& question : questions) {
    const int num_choices = 2 + static_cast<int>(random() % 4);
    for (int c = 0; c < num_choices; ++c) {
      std::vector<int32_t> ids(1 + random() % 29);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % 100);
      question.choices.push_back(Ending(ids, 1 + static_cast<int32_t>(random() % 50)));
    }
    question.answer = static_cast<int32_t>(random() % num_choices);
  }
  return questions;
}

// Against sums made directly, for steps that hold one token or many choices.
TEST(ChoicesTest, TheResultIsTheFormulasForAnyStep) {
  const std::vector<ChoiceQuestion> questions = RandomQuestions(150, 5);
  int64_t right = 0;
  for (const ChoiceQuestion& question : questions) {
    std::vector<double> sums;
    for (const Choice& choice : question.choices) {
      double sum = 0;
      for (size_t i = 2; i < choice.ids.size(); ++i) sum -= choice.ids[i] / 8.0;
      sums.push_back(sum);
    }
    right += std::max_element(sums.begin(), sums.end()) - sums.begin() == question.answer ? 1 : 0;
  }
  const double share = static_cast<double>(right) / 150;
  for (int32_t max_batch_tokens : {1, 7, 1000}) {
    for (int32_t max_sequences : {1, 3}) {
      FormulaRunner runner(max_batch_tokens, max_sequences);
      std::vector<std::pair<int64_t, int64_t>> heard;
      const auto result = EvaluateChoices(runner, questions, [&](int64_t done, int64_t total) {
                            heard.emplace_back(done, total);
                          }).value();
      EXPECT_EQ(result.accuracy.mean, share);
      EXPECT_NEAR(result.accuracy.standard_error, std::sqrt(share * (1 - share) / 149), 1e-12);
      EXPECT_EQ(heard.back(), std::make_pair(int64_t{150}, int64_t{150}));
    }
  }
}

TEST(ChoicesTest, WhatIsOutOfRangeIsNamed) {
  FormulaRunner runner;
  const auto message = [&](const ChoiceQuestion& wrong) {
    const ChoiceQuestion both[] = {{{Ending({8}, 2), Ending({4}, 1)}, 1}, wrong};
    const auto result = EvaluateChoices(runner, both, nullptr);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  const Choice good = Ending({3}, 1);
  EXPECT_THAT(message({{good}, 0}), HasSubstr("question 2 has 1 choices and answer 0"));
  EXPECT_THAT(message({{good, good}, 2}), HasSubstr("has 2 choices and answer 2"));
  EXPECT_THAT(message({{good, Ending(std::vector<int32_t>(31, 1), 1)}, 0}),
              HasSubstr("question 2 choice 2 has 33 tokens, the context holds 32"));
  EXPECT_THAT(message({{good, Ending({100}, 1)}, 0}), HasSubstr("token 100, the vocabulary has"));
  EXPECT_THAT(message({{good, Ending({-1}, 1)}, 0}), HasSubstr("token -1"));
  EXPECT_THAT(message({{good, Choice{{1, 2}, 2, 1}}, 0}), HasSubstr("an ending of no token"));
  EXPECT_THAT(message({{good, Choice{{1, 2}, 0, 1}}, 0}), HasSubstr("no context"));
  EXPECT_EQ(EvaluateChoices(runner, {}, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ChoicesTest, AFaultOfTheDeviceIsHandedOn) {
  FormulaRunner runner;
  runner.fail = true;
  const ChoiceQuestion question{{Ending({8}, 2), Ending({4}, 1)}, 1};
  EXPECT_EQ(EvaluateChoices(runner, {&question, 1}, nullptr).status().code(),
            absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace nibble

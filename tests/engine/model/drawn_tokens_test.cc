// Which rows of a batch take their token from where the last step drew it.
#include "engine/model/drawn_tokens.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble {
namespace {

class DrawnTokensTest : public testing::Test {
 protected:
  DrawnTokensTest() : plan_(Limits()) {
    sequences_ = {{1, 2, 3}, {4, 5}};
    batch_.rows = {Row(11, sequences_[0], 0, 3), Row(12, sequences_[1], 1, 1)};
    batch_.rows[0].prompt_logprobs = 0;  // two rows of scores before the draw
    batch_.num_tokens = 4;
    plan_.Fill(batch_, 64);
    EXPECT_EQ(plan_.size(), 4);
    plan_.outputs()[2].id = 70;
    plan_.outputs()[3].id = 80;
    drawn_.Note(batch_, plan_);
    sequences_[0].push_back(70);
    sequences_[1].push_back(80);
  }

  static RunnerLimits Limits() {
    RunnerLimits limits;
    limits.vocab_size = 100;
    limits.max_batch_tokens = 8;
    limits.max_sequences = 4;
    return limits;
  }
  BatchRow Row(uint64_t id, const std::vector<int32_t>& tokens, int32_t computed,
               int32_t scheduled) {
    BatchRow row;
    row.sequence_id = id;
    row.tokens = tokens;
    row.prompt_length = 3;
    row.num_computed = computed;
    row.num_scheduled = scheduled;
    row.sampling = &sampling_;
    row.sample = true;
    return row;
  }

  SamplingParams sampling_;
  std::vector<std::vector<int32_t>> sequences_;
  Batch batch_;
  SamplePlan plan_;
  DrawnTokens drawn_;
};

TEST_F(DrawnTokensTest, TheNextTokenOfASequenceIsTheRowThatDrewIt) {
  EXPECT_EQ(drawn_.RowOf(Row(11, sequences_[0], 3, 1)), 2);
  EXPECT_EQ(drawn_.RowOf(Row(12, sequences_[1], 2, 1)), 3);
}

TEST_F(DrawnTokensTest, AnythingElseIsReadFromTheHost) {
  EXPECT_EQ(DrawnTokens().RowOf(Row(11, sequences_[0], 3, 1)), -1) << "nothing was drawn";
  EXPECT_EQ(drawn_.RowOf(Row(13, sequences_[0], 3, 1)), -1) << "another sequence";
  EXPECT_EQ(drawn_.RowOf(Row(11, sequences_[0], 2, 1)), -1) << "another position";
  EXPECT_EQ(drawn_.RowOf(Row(11, sequences_[0], 2, 2)), -1) << "more than the drawn one";
  sequences_[0][3] = 71;
  EXPECT_EQ(drawn_.RowOf(Row(11, sequences_[0], 3, 1)), -1) << "continued with another token";
}

TEST_F(DrawnTokensTest, OnlyTheLastStepIsKnown) {
  Batch next;
  next.rows = {Row(12, sequences_[1], 2, 1)};
  next.num_tokens = 1;
  plan_.Fill(next, 64);
  plan_.outputs()[0].id = 81;
  drawn_.Note(next, plan_);
  sequences_[1].push_back(81);
  EXPECT_EQ(drawn_.RowOf(Row(12, sequences_[1], 3, 1)), 0);
  EXPECT_EQ(drawn_.RowOf(Row(11, sequences_[0], 3, 1)), -1);
}

}  // namespace
}  // namespace nibble

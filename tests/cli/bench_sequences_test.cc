#include "cli/bench_sequences.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/fakes/scripted_runner.h"

namespace nibble {
namespace {

using ::testing::ElementsAre;

TEST(PrefillStepsTest, SequencesFillTheBudgetInTurn) {
  EXPECT_THAT(PrefillSteps(2, 5, 8), ElementsAre(ElementsAre(5, 3), ElementsAre(0, 2)));
  EXPECT_THAT(PrefillSteps(1, 5, 8), ElementsAre(ElementsAre(5)));
  EXPECT_THAT(PrefillSteps(1, 9, 4), ElementsAre(ElementsAre(4), ElementsAre(4), ElementsAre(1)));
}

// ScriptedRunner proves at every step that a block table holds its sequence's own history, so that
// these passes can only succeed where prompts and tails never mix. Blocks hold 4 tokens.
class BenchSequencesTest : public ::testing::Test {
 protected:
  BenchSequencesTest() : runner_(Options()) {
    runner_.set_before_step([this](const Batch& batch) {
      steps_.push_back(batch.num_tokens);
      clock_.Advance(std::chrono::milliseconds(10));
    });
  }
  static ScriptedOptions Options() {
    ScriptedOptions options;
    options.limits.max_batch_tokens = 8;
    return options;
  }
  static constexpr SequencesShape kShape{3, 20, 6};

  ScriptedRunner runner_;
  FakeClock clock_;
  std::vector<int32_t> steps_;
  int64_t heard_ = 0;
  BenchSequences sequences_{runner_, kShape, [this](int32_t tokens) { heard_ += tokens; }};
};

TEST_F(BenchSequencesTest, ADepthIsFilledOnceAndNotTimed) {
  auto took = sequences_.Decode(2, 16, 5, clock_);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_EQ(*took, std::chrono::milliseconds(50));
  EXPECT_THAT(steps_, ElementsAre(8, 8, 8, 8, 2, 2, 2, 2, 2));
  steps_.clear();
  ASSERT_TRUE(sequences_.Decode(2, 16, 5, clock_).ok());
  EXPECT_THAT(steps_, ElementsAre(2, 2, 2, 2, 2));
  EXPECT_EQ(heard_, 32 + 10 + 10);
}

TEST_F(BenchSequencesTest, ShallowAndDeepContextsDoNotDisturbEachOther) {
  for (int repeat = 0; repeat < 2; ++repeat) {
    for (const int32_t context : {1, 20, 7, 12, 20}) {
      const auto took = sequences_.Decode(3, context, 6, clock_);
      ASSERT_TRUE(took.ok()) << context << ": " << took.status();
      EXPECT_EQ(*took, std::chrono::milliseconds(60)) << context;
    }
    ASSERT_TRUE(sequences_.Prefill(3, 11, clock_).ok());
  }
}

TEST_F(BenchSequencesTest, APrefilledPromptIsNotFilledAgain) {
  const auto took = sequences_.Prefill(3, 8, clock_);
  ASSERT_TRUE(took.ok()) << took.status();
  EXPECT_EQ(*took, std::chrono::milliseconds(30));
  steps_.clear();
  ASSERT_TRUE(sequences_.Decode(3, 8, 1, clock_).ok());
  EXPECT_THAT(steps_, ElementsAre(3));
}

// The device's block tables are as wide as max_context needs.
TEST_F(BenchSequencesTest, ATableIsNeverLongerThanItsTokensNeed) {
  runner_.set_before_step([](const Batch& batch) {
    for (const BatchRow& row : batch.rows) {
      if (row.num_scheduled > 1) continue;  // decoding
      EXPECT_LE(static_cast<int32_t>(row.block_table.size()), (8 + 2 + 3) / 4);
    }
  });
  ASSERT_TRUE(sequences_.Decode(1, 8, 2, clock_).ok());
}

TEST_F(BenchSequencesTest, ADeviceErrorEndsThePass) {
  runner_.FailAtStep(2);
  EXPECT_EQ(sequences_.Decode(1, 16, 5, clock_).status().code(), absl::StatusCode::kInternal);
}

TEST(BenchSequencesFitsTest, WhatDoesNotFitIsNamed) {
  // vocabulary, context, block size, blocks, batch tokens, sequences
  const RunnerLimits limits{260, 128, 4, 10, 64, 16};
  EXPECT_TRUE(BenchSequences::Fits(limits, {2, 10, 5}).ok()) << "3 blocks and a tail of 2 each";
  EXPECT_NE(BenchSequences::Fits(limits, {3, 10, 5}).message().find("needed 15"),
            absl::string_view::npos);
  EXPECT_TRUE(BenchSequences::Fits(limits, {3, 10, 0}).ok()) << "no tail";
  EXPECT_NE(BenchSequences::Fits(limits, {1, 128, 1}).message().find("--context"),
            absl::string_view::npos);
  EXPECT_NE(BenchSequences::Fits(limits, {17, 1, 1}).message().find("at most 16"),
            absl::string_view::npos);
}

}  // namespace
}  // namespace nibble

#include "cli/bench_requests.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/fakes/scripted_runner.h"

namespace nibble {
namespace {

// An engine whose steps take 10 ms of a clock that nothing else moves.
class BenchRequestsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runner = std::make_unique<ScriptedRunner>();
    runner_ = runner.get();
    runner->set_before_step([this](const Batch& batch) {
      most_rows_ = std::max(most_rows_, batch.rows.size());
      for (const BatchRow& row : batch.rows) {
        const bool same = PairOf(row) == PairOf(batch.rows[0]);
        if (!same) ++mixed_steps_;
      }
      clock_.Advance(std::chrono::milliseconds(10));
    });
    EngineParts parts;
    parts.runner = std::move(runner);
    parts.tokenizer = std::make_unique<FakeTokenizer>();
    parts.clock = &clock_;
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 64;
    options.prefix_cache = false;
    engine_ = Engine::Create(std::move(parts), options).value();
  }
  int64_t StepsOf(Batching batching, int32_t batch) {
    const int64_t before = runner_->steps();
    const auto took = RunRequests(*engine_, lengths_, batch, batching, clock_, nullptr);
    EXPECT_TRUE(took.ok()) << took.status();
    const int64_t steps = runner_->steps() - before;
    EXPECT_GE(*took, steps * std::chrono::milliseconds(10) - std::chrono::milliseconds(10));
    return steps;
  }

  // Requests are numbered in the order of their submission, from 1.
  static uint64_t PairOf(const BatchRow& row) { return (row.sequence_id - 1) / 2; }

  FakeClock clock_;
  ScriptedRunner* runner_ = nullptr;
  size_t most_rows_ = 0;
  int mixed_steps_ = 0;  // with requests of two pairs
  std::unique_ptr<Engine> engine_;
  // In pairs: a short one waits for a long one.
  std::vector<RequestLengths> lengths_ = {{3, 20}, {3, 2}, {3, 20}, {3, 2}, {3, 20}, {3, 2}};
};

TEST_F(BenchRequestsTest, AStaticBatchWaitsForItsLongest) {
  // Three pairs, each as long as its longest; the prompt's step draws the first token.
  EXPECT_GE(StepsOf(Batching::kStatic, 2), 60);
  EXPECT_EQ(most_rows_, 2u);
  EXPECT_EQ(mixed_steps_, 0);
}

TEST_F(BenchRequestsTest, AContinuousBatchFillsThePlaceOfWhatEnded) {
  EXPECT_GE(StepsOf(Batching::kContinuous, 2), 33);
  EXPECT_EQ(most_rows_, 2u);
  EXPECT_GT(mixed_steps_, 0);
}

TEST_F(BenchRequestsTest, OneAtATimeIsTheSameBothWays) {
  EXPECT_EQ(StepsOf(Batching::kStatic, 1), 66);
  EXPECT_EQ(StepsOf(Batching::kContinuous, 1), 66);
}

TEST_F(BenchRequestsTest, AFailureIsReturnedWhenAllHaveEnded) {
  runner_->FailAtStep(5);
  int ends = 0;
  const auto took =
      RunRequests(*engine_, lengths_, 2, Batching::kContinuous, clock_, [&ends] { ++ends; });
  EXPECT_FALSE(took.ok());
  EXPECT_EQ(ends, 6);
}

TEST_F(BenchRequestsTest, ARequestThatIsTooLongIsRefusedBeforeAnyRuns) {
  lengths_.push_back({200, 1});
  const auto took = RunRequests(*engine_, lengths_, 2, Batching::kStatic, clock_, nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(took.status())) << took.status();
  EXPECT_EQ(runner_->steps(), 0);
}

TEST_F(BenchRequestsTest, ResultsOfEveryBatchAndRepetition) {
  int64_t last = 0, of = 0;
  const auto results =
      BenchRequests(*engine_, lengths_, {1, 4}, 3, clock_, [&](int64_t done, int64_t total) {
        EXPECT_EQ(done, last + 1);
        last = done;
        of = total;
      });
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(last, of);
  EXPECT_EQ(of, 6 * 2 * 3 * 2);
  ASSERT_EQ(results->size(), 2u);
  EXPECT_EQ((*results)[1].batch, 4);
  EXPECT_EQ((*results)[1].prompt_tokens, 18);
  EXPECT_EQ((*results)[1].generated_tokens, 66);
  EXPECT_EQ((*results)[1].continuous.size(), 3u);
  EXPECT_EQ((*results)[1].fixed.size(), 3u);
}

TEST(DrawLengthsTest, EveryRunHasTheSameWithinTheBounds) {
  const auto lengths = DrawLengths(1000, 7, 300);
  const auto again = DrawLengths(1000, 7, 300);
  int32_t longest = 0, shortest = 300;
  for (size_t i = 0; i < lengths.size(); ++i) {
    EXPECT_EQ(lengths[i].prompt_tokens, again[i].prompt_tokens);
    EXPECT_EQ(lengths[i].generate_tokens, again[i].generate_tokens);
    EXPECT_GE(lengths[i].prompt_tokens, 1);
    EXPECT_LE(lengths[i].prompt_tokens, 7);
    longest = std::max(longest, lengths[i].generate_tokens);
    shortest = std::min(shortest, lengths[i].generate_tokens);
  }
  EXPECT_GE(shortest, 1);
  EXPECT_LE(shortest, 10);
  EXPECT_LE(longest, 300);
  EXPECT_GE(longest, 290);
}

TEST(RequestsReportTest, RatiosAreThoseOfTheRepetitions) {
  RequestsResult result{8, 2, "f16", 10, 20, {}, {}};
  result.continuous = {100, 300, 200};
  result.fixed = {50, 100, 200};
  const auto json = RequestsJson({result});
  EXPECT_EQ(json[0]["continuous"]["median"], 200.0);
  EXPECT_EQ(json[0]["static"]["median"], 100.0);
  EXPECT_EQ(json[0]["ratio"], 2.0);
  EXPECT_EQ(json[0]["ratio_min"], 1.0);
  EXPECT_EQ(json[0]["ratio_max"], 3.0);
  std::ostringstream out;
  PrintRequests(3, {result}, out);
  EXPECT_NE(out.str().find("3 requests, 10 prompt tokens, 20 generated"), std::string::npos);
  EXPECT_NE(out.str().find("2.00  (1.00-3.00)"), std::string::npos) << out.str();
}

}  // namespace
}  // namespace nibble

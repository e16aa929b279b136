#include "engine/scheduling/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kEos = 9;
constexpr int32_t kContext = 16;

PreparedRequest Request(int32_t prompt_length, int32_t max_tokens) {
  PreparedRequest request;
  request.prompt_ids.assign(prompt_length, 1);
  request.params.stopping.max_tokens = max_tokens;
  return request;
}

Sequence Make(const PreparedRequest& request) { return Sequence(1, request, {kEos}, Instant{}); }

FinishReason ReasonOf(const Sequence& sequence) {
  return sequence.FindEnding(kContext).value_or(Ending{}).reason;
}

TEST(SequenceTest, EndsWithEosStopTokenMaxTokensOrContext) {
  PreparedRequest request = Request(2, 2);
  request.params.stopping.stop_token_ids = {5};
  Sequence s = Make(request);
  EXPECT_EQ(ReasonOf(s), FinishReason::kUnspecified);
  s.tokens.push_back(kEos);
  EXPECT_EQ(ReasonOf(s), FinishReason::kEos);
  EXPECT_EQ(s.FindEnding(kContext)->matched_token, kEos);
  s.tokens.back() = 5;
  EXPECT_EQ(ReasonOf(s), FinishReason::kStopToken);
  s.tokens.back() = 1;
  EXPECT_EQ(ReasonOf(s), FinishReason::kUnspecified);
  s.tokens.push_back(1);
  EXPECT_EQ(ReasonOf(s), FinishReason::kMaxTokens);
  EXPECT_EQ(s.FindEnding(4)->reason, FinishReason::kContextLength);
}

TEST(SequenceTest, APromptThatLooksLikeAnEndIsNone) {
  PreparedRequest request = Request(1, 3);
  request.prompt_ids = {1, kEos};
  EXPECT_EQ(ReasonOf(Make(request)), FinishReason::kUnspecified);
}

TEST(SequenceTest, NothingToGenerateEndsAsMaxTokensEvenInAFullContext) {
  EXPECT_EQ(ReasonOf(Make(Request(kContext, 0))), FinishReason::kMaxTokens);
}

TEST(SequenceTest, IgnoreEosMakesItAnOrdinaryTokenUnlessTheCallerNamesIt) {
  PreparedRequest request = Request(2, 4);
  request.params.stopping.ignore_eos = true;
  Sequence s = Make(request);
  s.tokens.push_back(kEos);
  EXPECT_EQ(ReasonOf(s), FinishReason::kUnspecified);
  request.params.stopping.stop_token_ids = {kEos};
  Sequence named = Make(request);
  named.tokens.push_back(kEos);
  EXPECT_EQ(ReasonOf(named), FinishReason::kStopToken);
}

TEST(SequenceTest, ForbidsEveryEndBeforeMinTokens) {
  PreparedRequest request = Request(2, 8);
  request.params.stopping.min_tokens = 1;
  request.params.stopping.stop_token_ids = {5, kEos};
  Sequence s = Make(request);
  EXPECT_THAT(s.forbidden(), ElementsAre(kEos, 5));
  s.tokens.push_back(1);
  EXPECT_THAT(s.forbidden(), IsEmpty());
}

TEST(SequenceTest, ScoringNeedsThePromptFromTheFirstUnscoredPosition) {
  PreparedRequest request = Request(5, 8);
  EXPECT_EQ(Make(request).first_needed(), 4);  // the last known token always runs
  request.params.response.prompt_logprobs = 0;
  Sequence s = Make(request);
  EXPECT_EQ(s.first_needed(), 0);
  s.prompt_scored = 2;
  EXPECT_EQ(s.first_needed(), 2);
  s.prompt_scored = 4;  // all but the first, which has no logprob
  EXPECT_EQ(s.first_needed(), 4);
}

TEST(SequenceTest, StageAndTimingsFollowItsLife) {
  using std::chrono::seconds;
  const Instant t0{seconds(100)};
  Sequence s(1, Request(2, 8), {}, t0);
  EXPECT_EQ(s.stage(), Stage::kQueued);
  EXPECT_EQ(s.timings(t0 + seconds(1)).queue, seconds(1));
  s.first_scheduled = t0 + seconds(2);
  EXPECT_EQ(s.stage(), Stage::kPrefill);
  s.prompt_done = t0 + seconds(5);
  s.first_token = t0 + seconds(5);
  s.last_token = t0 + seconds(9);
  EXPECT_EQ(s.stage(), Stage::kDecode);
  const Timings t = s.timings(t0 + seconds(10));
  EXPECT_EQ(t.queue, seconds(2));
  EXPECT_EQ(t.prefill, seconds(3));
  EXPECT_EQ(t.first_token, seconds(5));
  EXPECT_EQ(t.decode, seconds(4));
  EXPECT_EQ(t.total, seconds(10));
}

TEST(SequenceTest, HigherPriorityGoesFirstThenEarlierArrival) {
  PreparedRequest urgent = Request(1, 1);
  urgent.params.priority = 1;
  const Sequence a(1, Request(1, 1), {}, Instant{});
  const Sequence b(2, Request(1, 1), {}, Instant{});
  const Sequence c(3, urgent, {}, Instant{});
  EXPECT_TRUE(GoesFirst()(&a, &b));
  EXPECT_TRUE(GoesFirst()(&c, &a));
  EXPECT_FALSE(GoesFirst()(&a, &a));
}

}  // namespace
}  // namespace nibble

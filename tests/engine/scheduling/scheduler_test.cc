#include "engine/scheduling/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Ask {
  int32_t prompt = 4;
  int32_t max_tokens = 32;
  int32_t priority = 0;
  int32_t first_token = -1;  // of the prompt; default: its own, so that nothing is shared
};

// Steps a scheduler by hand. Every sampled token is 1.
class SchedulerTest : public ::testing::Test {
 protected:
  void Make(SchedulerOptions options) { scheduler_ = std::make_unique<Scheduler>(options); }
  static SchedulerOptions Small() {
    return {.max_running = 4, .max_batch_tokens = 8, .block_size = 4, .num_blocks = 32};
  }

  RequestId Add(const Ask& ask) {
    const RequestId id = ++last_id_;
    PreparedRequest request;
    request.prompt_ids.resize(ask.prompt);
    const int32_t first = ask.first_token >= 0 ? ask.first_token : static_cast<int32_t>(id) * 1000;
    std::iota(request.prompt_ids.begin(), request.prompt_ids.end(), first);
    request.params.stopping.max_tokens = ask.max_tokens;
    request.params.priority = ask.priority;
    scheduler_->Add(
        std::make_unique<Sequence>(id, std::move(request), absl::Span<const int32_t>(), now_));
    return id;
  }

  // One step in which nobody ends: (sequence, tokens scheduled) in batch order.
  std::vector<std::pair<RequestId, int>> Step() {
    plan_ = scheduler_->Schedule(now_);
    std::vector<std::pair<RequestId, int>> rows;
    StepResult result;
    for (const BatchRow& row : plan_.batch.rows) {
      rows.emplace_back(row.sequence_id, row.num_scheduled);
      result.rows.emplace_back();
      if (row.sample) result.rows.back().sampled = Logprob{1, 0, {}};
    }
    scheduler_->Commit(plan_.batch, result, now_);
    for (RequestId id : plan_.exhausted) scheduler_->Remove(id);
    EXPECT_TRUE(scheduler_->CheckIntegrity().ok()) << scheduler_->CheckIntegrity();
    return rows;
  }
  using Rows = std::vector<std::pair<RequestId, int>>;

  std::unique_ptr<Scheduler> scheduler_;
  Scheduler::Plan plan_;
  RequestId last_id_ = 0;
  Instant now_{};
};

TEST_F(SchedulerTest, CutsPromptsIntoChunksOfTheTokenBudget) {
  Make(Small());
  const RequestId a = Add({.prompt = 19});
  EXPECT_EQ(Step(), (Rows{{a, 8}}));
  EXPECT_EQ(Step(), (Rows{{a, 8}}));
  EXPECT_EQ(Step(), (Rows{{a, 3}}));
  EXPECT_EQ(scheduler_->Find(a)->num_generated(), 1);
  EXPECT_EQ(Step(), (Rows{{a, 1}}));
}

TEST_F(SchedulerTest, DecodesGoFirstAndPromptsShareWhatIsLeft) {
  Make(Small());
  const RequestId a = Add({.prompt = 2});
  Step();
  const RequestId b = Add({.prompt = 5});
  const RequestId c = Add({.prompt = 9});
  EXPECT_EQ(Step(), (Rows{{a, 1}, {b, 5}, {c, 2}}));
  EXPECT_EQ(Step(), (Rows{{a, 1}, {b, 1}, {c, 6}}));
}

TEST_F(SchedulerTest, QueueOrderIsPriorityThenArrival) {
  Make({.max_running = 1, .max_batch_tokens = 8, .block_size = 4, .num_blocks = 32});
  const RequestId low = Add({.priority = -1});
  const RequestId first = Add({});
  const RequestId second = Add({});
  const RequestId high = Add({.priority = 5});
  for (RequestId expected : {high, first, second, low}) {
    EXPECT_EQ(Step(), (Rows{{expected, 4}}));
    scheduler_->Remove(expected);
  }
}

TEST_F(SchedulerTest, AHigherPriorityPromptPassesOneThatIsBeingPrefilled) {
  Make(Small());
  const RequestId slow = Add({.prompt = 40});
  Step();
  const RequestId urgent = Add({.prompt = 6, .priority = 1});
  EXPECT_EQ(Step(), (Rows{{urgent, 6}, {slow, 2}}));
}

TEST_F(SchedulerTest, NobodyOvertakesTheFirstThatMustWait) {
  Make({.max_running = 4, .max_batch_tokens = 32, .block_size = 4, .num_blocks = 8});
  const RequestId a = Add({.prompt = 16});
  Step();
  const RequestId big = Add({.prompt = 20});
  const RequestId small = Add({.prompt = 2});
  EXPECT_EQ(Step(), (Rows{{a, 1}}));  // the small one would fit
  scheduler_->Remove(a);
  EXPECT_EQ(Step(), (Rows{{big, 20}, {small, 2}}));
}

TEST_F(SchedulerTest, ANewcomerLeavesABlockForEveryRunningSequence) {
  Make({.max_running = 4, .max_batch_tokens = 32, .block_size = 4, .num_blocks = 4});
  Add({.prompt = 4});
  Step();
  const RequestId b = Add({.prompt = 8});  // 2 of 3 free blocks: none would be left to grow into
  Step();
  EXPECT_FALSE(scheduler_->Find(b)->running);
  EXPECT_THAT(plan_.preempted, IsEmpty());
}

TEST_F(SchedulerTest, SharedBeginningsAreComputedOnce) {
  Make(Small());
  const RequestId a = Add({.prompt = 8, .first_token = 7});
  Step();
  const RequestId b = Add({.prompt = 10, .first_token = 7});
  EXPECT_EQ(Step(), (Rows{{a, 1}, {b, 2}}));
  EXPECT_EQ(scheduler_->Find(b)->cached_tokens, 8);
  EXPECT_EQ(scheduler_->Find(a)->block_table[1], scheduler_->Find(b)->block_table[1]);
}

TEST_F(SchedulerTest, AFullHitStillComputesOneToken) {
  Make(Small());
  scheduler_->Find(Add({.prompt = 8, .first_token = 7}));
  Step();
  const RequestId b = Add({.prompt = 8, .first_token = 7});
  Step();
  EXPECT_EQ(scheduler_->Find(b)->cached_tokens, 4);
  EXPECT_EQ(scheduler_->Find(b)->num_generated(), 1);
}

TEST_F(SchedulerTest, GeneratedBlocksAreCachedToo) {
  Make(Small());
  const RequestId a = Add({.prompt = 3, .first_token = 7});
  for (int i = 0; i < 6; ++i) Step();
  std::vector<int32_t> said = scheduler_->Find(a)->tokens;
  scheduler_->Remove(a);
  PreparedRequest follow_up;
  follow_up.prompt_ids = said;
  follow_up.params.stopping.max_tokens = 1;
  scheduler_->Add(std::make_unique<Sequence>(9, follow_up, absl::Span<const int32_t>(), now_));
  Step();
  EXPECT_EQ(scheduler_->Find(9)->cached_tokens, 8);  // 9 known, 8 computed, 2 full blocks
}

TEST_F(SchedulerTest, WithoutPrefixCacheNothingIsShared) {
  SchedulerOptions options = Small();
  options.prefix_cache = false;
  Make(options);
  Add({.prompt = 8, .first_token = 7});
  Step();
  const RequestId b = Add({.prompt = 8, .first_token = 7});
  Step();
  EXPECT_EQ(scheduler_->Find(b)->cached_tokens, 0);
}

// Two of 8 tokens each in 5 blocks of 4: both grow, and one has to go.
TEST_F(SchedulerTest, PreemptsTheLeastComputedWorkWhenBlocksRunOut) {
  Make({.max_running = 4,
        .max_batch_tokens = 16,
        .block_size = 4,
        .num_blocks = 5,
        .prefix_cache = false});
  const RequestId a = Add({.prompt = 8});
  const RequestId b = Add({.prompt = 3});
  Step();  // a 2 blocks, b 1
  for (int i = 0; i < 9; ++i) Step();
  EXPECT_EQ(scheduler_->Find(a)->preemptions, 0);
  EXPECT_EQ(scheduler_->Find(b)->preemptions, 1);
  EXPECT_THAT(scheduler_->Find(b)->block_table, IsEmpty());
}

TEST_F(SchedulerTest, LowerPriorityIsPreemptedBeforeLessWork) {
  Make({.max_running = 4,
        .max_batch_tokens = 16,
        .block_size = 4,
        .num_blocks = 8,
        .prefix_cache = false});
  const RequestId first = Add({.prompt = 4});
  const RequestId low = Add({.prompt = 7, .priority = -1});
  const RequestId small = Add({.prompt = 1});
  while (plan_.preempted.empty()) Step();
  EXPECT_THAT(plan_.preempted, ElementsAre(low));
  EXPECT_TRUE(scheduler_->Find(first)->running);
  EXPECT_TRUE(scheduler_->Find(small)->running);
}

TEST_F(SchedulerTest, APausedSequenceKeepsItsBlocksUntilSomebodyNeedsThem) {
  Make({.max_running = 4,
        .max_batch_tokens = 16,
        .block_size = 4,
        .num_blocks = 6,
        .prefix_cache = false});
  const RequestId slow = Add({.prompt = 8});
  Step();
  scheduler_->Pause(slow, now_);
  EXPECT_TRUE(Step().empty());
  EXPECT_TRUE(scheduler_->Find(slow)->running);
  EXPECT_EQ(scheduler_->counts().paused, 1);
  const RequestId next = Add({.prompt = 20});
  EXPECT_EQ(Step(), (Rows{{next, 16}}));
  EXPECT_THAT(plan_.preempted, ElementsAre(slow));
  scheduler_->Remove(next);
  EXPECT_TRUE(Step().empty());  // still paused
  scheduler_->Resume(slow);
  EXPECT_EQ(Step(), (Rows{{slow, 9}}));  // all it knows, at once
  EXPECT_EQ(scheduler_->Find(slow)->recomputed_tokens, 8);
}

TEST_F(SchedulerTest, AHigherPriorityNewcomerDisplacesALowerOneButNotItsEqual) {
  Make({.max_running = 1, .max_batch_tokens = 16, .block_size = 4, .num_blocks = 8});
  const RequestId a = Add({});
  Step();
  Add({});
  EXPECT_EQ(Step(), (Rows{{a, 1}}));
  const RequestId urgent = Add({.priority = 3});
  EXPECT_EQ(Step(), (Rows{{urgent, 4}}));
  EXPECT_THAT(plan_.preempted, ElementsAre(a));
}

TEST_F(SchedulerTest, DisplacesNobodyWhenThatWouldNotHelp) {
  Make({.max_running = 4, .max_batch_tokens = 64, .block_size = 4, .num_blocks = 8});
  const RequestId equal = Add({.prompt = 12, .priority = 3});
  const RequestId low = Add({.prompt = 4});
  Step();
  Add({.prompt = 24, .priority = 3});  // needs 6: 4 free or low's, 3 are equal's
  EXPECT_EQ(Step(), (Rows{{equal, 1}, {low, 1}}));
  EXPECT_THAT(plan_.preempted, IsEmpty());
}

// One was displaced for a newcomer that its blocks let in only without the reserve: neither ran.
TEST_F(SchedulerTest, DisplacesNobodyWhenTheReserveWouldStillKeepTheNewcomerOut) {
  Make({.max_running = 4, .max_batch_tokens = 64, .block_size = 4, .num_blocks = 10});
  const RequestId equal = Add({.prompt = 4, .priority = 3});
  const RequestId low = Add({.prompt = 12});
  Step();
  Step();                              // equal holds 2 blocks, low 4; 4 are free
  Add({.prompt = 28, .priority = 3});  // needs 7 and 2 in reserve: with low's there are 8
  EXPECT_EQ(Step(), (Rows{{equal, 1}, {low, 1}}));
  EXPECT_THAT(plan_.preempted, IsEmpty());
}

TEST_F(SchedulerTest, OneTooLongForTheWholeCacheIsExhaustedAlone) {
  Make({.max_running = 4, .max_batch_tokens = 16, .block_size = 4, .num_blocks = 4});
  const RequestId greedy = Add({.prompt = 14, .max_tokens = 100});
  const RequestId modest = Add({.prompt = 4, .max_tokens = 100});
  while (plan_.exhausted.empty()) Step();
  EXPECT_THAT(plan_.exhausted, ElementsAre(greedy));
  Step();
  EXPECT_TRUE(scheduler_->Find(modest)->running);
}

TEST_F(SchedulerTest, TheFirstSequenceAlwaysProgresses) {
  Make({.max_running = 4, .max_batch_tokens = 4, .block_size = 2, .num_blocks = 12});
  const RequestId first = Add({.prompt = 5, .max_tokens = 18});
  for (int i = 0; i < 3; ++i) Add({.prompt = 5, .max_tokens = 18});
  for (int32_t known = 0; known < 23;) {
    Step();
    const Sequence& s = *scheduler_->Find(first);
    EXPECT_EQ(s.preemptions, 0);
    ASSERT_GT(s.num_known() + s.num_computed, known);
    known = s.num_known();
  }
}

TEST_F(SchedulerTest, RemoveGivesBlocksBackAtOnceInEveryState) {
  Make(Small());
  const RequestId prefilling = Add({.prompt = 20});
  Step();
  const RequestId waiting = Add({});
  EXPECT_GT(scheduler_->counts().blocks_in_use, 0);
  scheduler_->Remove(waiting);
  scheduler_->Remove(prefilling);
  EXPECT_EQ(scheduler_->counts().blocks_in_use, 0);
  EXPECT_TRUE(scheduler_->CheckIntegrity().ok());
}

TEST_F(SchedulerTest, CountsPromptTokensOnlyOfThoseNeverScheduled) {
  Make({.max_running = 1, .max_batch_tokens = 8, .block_size = 4, .num_blocks = 32});
  Add({.prompt = 20});
  Add({.prompt = 7});
  EXPECT_EQ(scheduler_->counts().queued_prompt_tokens, 27);
  Step();
  EXPECT_EQ(scheduler_->counts().queued_prompt_tokens, 7);
}

TEST_F(SchedulerTest, NothingIsSampledWhenThePromptIsOnlyScored) {
  Make(Small());
  const RequestId a = Add({.prompt = 4, .max_tokens = 0});
  plan_ = scheduler_->Schedule(now_);
  ASSERT_EQ(plan_.batch.rows.size(), 1u);
  EXPECT_FALSE(plan_.batch.rows[0].sample);
  EXPECT_EQ(plan_.batch.rows[0].sequence_id, a);
}

}  // namespace
}  // namespace nibble

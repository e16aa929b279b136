#include "engine/engine_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/fakes/recording_sink.h"
#include "tests/engine/fakes/scripted_runner.h"

namespace nibble {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

class LastObserver final : public EngineObserver {
 public:
  void OnStep(const StepStats& stats) override { steps.push_back(stats); }
  void OnPreempted(RequestId) override { ++preempted; }
  void OnFirstToken(Duration d) override { first.push_back(d); }
  void OnInterToken(Duration d) override { inter.push_back(d); }
  void OnFinished(RequestId, const Outcome&) override { ++finished; }

  std::vector<StepStats> steps;
  std::vector<Duration> first, inter;
  int preempted = 0;
  int finished = 0;
};

// A loop without a thread; every step takes 10 ms of a clock that only the steps move.
class EngineLoopTest : public ::testing::Test {
 protected:
  void SetUp() override { Make({}, {}); }
  void Make(const ScriptedOptions& script, EngineOptions options) {
    loop_.reset();
    runner_ = std::make_unique<ScriptedRunner>(script);
    runner_->set_before_step([this](const Batch&) { clock_.Advance(milliseconds(10)); });
    options.seed = 1;
    options.max_running = 8;
    options.max_batch_tokens = 16;
    auto loop = EngineLoop::Create({runner_.get(), &tokenizer_, &clock_, &observer_}, options);
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
  }

  struct Call {
    RequestId id = 0;
    std::shared_ptr<RecordingSink> sink = std::make_shared<RecordingSink>();
    Outcome outcome() const { return sink->outcome().value_or(Outcome{}); }
  };
  PreparedRequest Request(int32_t prompt = 4, int32_t max_tokens = 8) {
    PreparedRequest request;
    for (int32_t i = 0; i < prompt; ++i) request.prompt_ids.push_back('A' + (next_++ % 26));
    request.params.stopping.max_tokens = max_tokens;
    request.params.sampling.seed = 5;
    return request;
  }
  Call Submit(PreparedRequest request) {
    Call call;
    call.id = loop_->Submit(std::move(request), call.sink);
    return call;
  }
  void RunUntilIdle() {
    for (int i = 0; i < 1000 && !loop_->Idle(); ++i) Step();
    ASSERT_TRUE(loop_->Idle()) << loop_->DescribeState();
  }
  bool Step() {
    const bool ran = loop_->Step();
    EXPECT_TRUE(loop_->CheckIntegrity().ok()) << loop_->CheckIntegrity();
    return ran;
  }

  FakeClock clock_;
  FakeTokenizer tokenizer_;
  LastObserver observer_;
  std::unique_ptr<ScriptedRunner> runner_;
  std::unique_ptr<EngineLoop> loop_;
  int32_t next_ = 0;
};

TEST_F(EngineLoopTest, RefusesOptionsThatDoNotFitTogether) {
  const auto try_options = [&](EngineOptions options) {
    return EngineLoop::Create({runner_.get(), &tokenizer_, &clock_, nullptr}, options).status();
  };
  EXPECT_TRUE(try_options({}).ok());
  EXPECT_THAT(try_options({.max_running = 0}).ToString(), HasSubstr("max_running is 0"));
  EXPECT_THAT(try_options({.max_batch_tokens = -1}).ToString(), HasSubstr("max_batch_tokens"));
  EXPECT_THAT(try_options({.max_running = 8, .max_batch_tokens = 4}).ToString(),
              HasSubstr("a step holds only 4"));
  EXPECT_THAT(try_options({.pause_timeout = Duration(0)}).ToString(), HasSubstr("pause_timeout"));
  ScriptedOptions bigger;
  bigger.limits.vocab_size = 300;
  ScriptedRunner runner(bigger);
  EXPECT_TRUE(absl::IsInvalidArgument(
      EngineLoop::Create({&runner, &tokenizer_, &clock_, nullptr}, {}).status()));
}

TEST_F(EngineLoopTest, LayersAreToldInTheMiddleOfAStep) {
  EngineLoad within;
  runner_->set_before_step([&](const Batch&) {
    runner_->FinishLayer();
    within = loop_->Load();
  });
  const Call call = Submit(Request(4, 1));
  RunUntilIdle();
  EXPECT_EQ(within.steps, 0);
  EXPECT_EQ(within.layers, 1);
  EXPECT_EQ(loop_->Load().steps, 1);
}

TEST_F(EngineLoopTest, ARequestHearsStartedItsTokensAndFinished) {
  const PreparedRequest request = Request(4, 3);
  const Call call = Submit(request);
  RunUntilIdle();
  EXPECT_EQ(call.sink->violation(), "");
  const std::optional<Started> started = call.sink->started();
  ASSERT_TRUE(started);
  EXPECT_EQ(started->id, call.id);
  EXPECT_EQ(started->prompt_tokens, 4);
  EXPECT_EQ(started->effective.sampling.seed, 5u);
  std::vector<int32_t> history = request.prompt_ids;
  for (int32_t token : call.sink->tokens()) {
    EXPECT_EQ(token, runner_->NextToken(history, request.params.sampling, {}));
    history.push_back(token);
  }
  EXPECT_EQ(call.outcome().finish_reason, FinishReason::kMaxTokens);
  EXPECT_EQ(call.outcome().usage.completion_tokens, 3);
  EXPECT_EQ(call.outcome().stage, Stage::kDecode);
}

TEST_F(EngineLoopTest, TimingsAddUp) {
  const Call first = Submit(Request(16, 1));  // takes the whole budget of a step
  const Call call = Submit(Request(20, 4));   // so this waits one, then takes two for its prompt
  RunUntilIdle();
  const Timings t = call.outcome().timings;
  EXPECT_EQ(t.queue, milliseconds(10));
  EXPECT_EQ(t.prefill, milliseconds(20));
  EXPECT_EQ(t.first_token, milliseconds(30));
  EXPECT_EQ(t.decode, milliseconds(30));
  EXPECT_EQ(t.total, milliseconds(60));
}

TEST_F(EngineLoopTest, TheObserverHearsStepsTokensAndEnds) {
  Submit(Request(20, 3));
  RunUntilIdle();
  ASSERT_EQ(observer_.steps.size(), 4u);
  EXPECT_EQ(observer_.steps[0].prompt_tokens, 16);
  EXPECT_EQ(observer_.steps[1].prompt_tokens, 4);
  EXPECT_EQ(observer_.steps[1].generated_tokens, 1);
  EXPECT_EQ(observer_.steps[2].prompt_tokens, 0);
  EXPECT_EQ(observer_.steps[2].batch_tokens, 1);
  EXPECT_EQ(observer_.steps[2].step, milliseconds(10));
  EXPECT_EQ(observer_.first, (std::vector<Duration>{milliseconds(20)}));
  EXPECT_EQ(observer_.inter, (std::vector<Duration>(2, milliseconds(10))));
  EXPECT_EQ(observer_.finished, 1);
}

TEST_F(EngineLoopTest, CancelEndsItWithinOneStepAtEveryStage) {
  for (int steps : {0, 1, 4}) {  // queued, prefilling, decoding
    SCOPED_TRACE(steps);
    const Call call = Submit(Request(20, 50));
    for (int i = 0; i < steps; ++i) Step();
    loop_->Cancel(call.id);
    Step();
    EXPECT_TRUE(absl::IsCancelled(call.outcome().status));
    EXPECT_EQ(static_cast<int>(call.outcome().stage), steps == 0 ? 0 : steps == 1 ? 1 : 2);
    EXPECT_EQ(loop_->Load().blocks_in_use, 0);
    EXPECT_TRUE(loop_->Idle());
    loop_->Cancel(call.id);  // once more changes nothing
    Step();
    EXPECT_EQ(call.sink->finished(), 1);
  }
}

TEST_F(EngineLoopTest, ADeadlineEndsItAtEveryStageAndSaysWhich) {
  const char* names[] = {"queued", "prefill", "decode"};
  for (int stage : {0, 1, 2}) {
    SCOPED_TRACE(stage);
    PreparedRequest request = Request(20, 50);
    request.params.deadline = clock_.Now() + milliseconds(stage == 2 ? 50 : 10 * stage);
    const int64_t ran = runner_->tokens_run();
    const Call call = Submit(std::move(request));
    RunUntilIdle();
    EXPECT_TRUE(absl::IsDeadlineExceeded(call.outcome().status)) << call.outcome().status;
    EXPECT_EQ(static_cast<int>(call.outcome().stage), stage);
    EXPECT_THAT(std::string(call.outcome().status.message()), HasSubstr(names[stage]));
    EXPECT_EQ(loop_->Load().blocks_in_use, 0);
    if (stage == 0) {
      EXPECT_EQ(runner_->tokens_run(), ran);  // expired work is never prefilled
      EXPECT_FALSE(call.sink->started());
    }
  }
}

TEST_F(EngineLoopTest, ATimeLimitFinishesOkWithWhatThereIs) {
  PreparedRequest request = Request(4, 50);
  request.params.time_limit = milliseconds(30);
  request.params.stopping.stop = {std::string(200, 'q')};
  const Call call = Submit(std::move(request));
  RunUntilIdle();
  EXPECT_TRUE(call.outcome().status.ok());
  EXPECT_EQ(call.outcome().finish_reason, FinishReason::kDeadline);
  EXPECT_EQ(call.sink->tokens().size(), 3u);
  EXPECT_EQ(call.sink->text().size(), 3u);
}

// It ends well, so its caller is told its id and parameters like everybody.
TEST_F(EngineLoopTest, ATimeLimitThatPassesInTheQueueStillStarts) {
  PreparedRequest request = Request(4, 50);
  request.params.time_limit = milliseconds(30);
  const Call call = Submit(std::move(request));
  clock_.Advance(milliseconds(40));
  RunUntilIdle();
  EXPECT_EQ(call.sink->violation(), "");
  ASSERT_TRUE(call.sink->started());
  EXPECT_EQ(call.sink->started()->id, call.id);
  EXPECT_EQ(call.sink->started()->prompt_tokens, 4);
  EXPECT_EQ(call.sink->started()->cached_tokens, 0);
  EXPECT_TRUE(call.outcome().status.ok());
  EXPECT_EQ(call.outcome().finish_reason, FinishReason::kDeadline);
  EXPECT_EQ(call.outcome().stage, Stage::kQueued);
  EXPECT_EQ(runner_->tokens_run(), 0);
}

TEST_F(EngineLoopTest, TheNextEventIsTheEarliestDeadline) {
  EXPECT_EQ(loop_->NextEvent(), std::nullopt);
  PreparedRequest request = Request();
  request.params.deadline = clock_.Now() + milliseconds(500);
  request.params.time_limit = milliseconds(400);
  const Instant expected = clock_.Now() + milliseconds(400);
  Submit(std::move(request));
  Step();
  EXPECT_EQ(loop_->NextEvent(), expected);
}

TEST_F(EngineLoopTest, AFullSinkPausesUntilResume) {
  Call slow;
  slow.sink->set_room([] { return TokenSink::Room::kFull; });
  slow.id = loop_->Submit(Request(4, 3), slow.sink);
  const Call other = Submit(Request(4, 5));
  while (other.sink->finished() == 0) Step();
  EXPECT_EQ(other.sink->tokens().size(), 5u);
  EXPECT_EQ(slow.sink->tokens().size(), 1u);
  EXPECT_EQ(loop_->Load().paused, 1);
  EXPECT_FALSE(Step());
  loop_->Resume(slow.id);
  EXPECT_TRUE(Step());
  EXPECT_EQ(slow.sink->tokens().size(), 2u);
  loop_->Resume(slow.id);
  RunUntilIdle();
  EXPECT_EQ(slow.outcome().finish_reason, FinishReason::kMaxTokens);
}

// It waits for its client, not for the engine: no work that a stall could be told by.
TEST_F(EngineLoopTest, APausedSequenceThatLostItsBlocksIsNoPendingWork) {
  ScriptedOptions script;
  script.limits.num_blocks = 5;
  Make(script, {});
  Call slow;
  slow.sink->set_room([] { return TokenSink::Room::kFull; });
  slow.id = loop_->Submit(Request(8, 8), slow.sink);
  Step();
  ASSERT_EQ(loop_->Load().paused, 1);
  const Call other = Submit(Request(8, 8));  // takes the blocks of the paused one
  while (other.sink->finished() == 0) Step();
  ASSERT_EQ(observer_.preempted, 1);
  const EngineLoad load = loop_->Load();
  EXPECT_EQ(load.running, 0);
  EXPECT_EQ(load.waiting, 1);
  EXPECT_EQ(load.paused_waiting, 1);
  EXPECT_FALSE(Step());
  slow.sink->set_room([] { return TokenSink::Room::kReady; });
  loop_->Resume(slow.id);
  RunUntilIdle();
  EXPECT_EQ(slow.outcome().finish_reason, FinishReason::kMaxTokens);
  EXPECT_EQ(loop_->Load().paused_waiting, 0);
}

TEST_F(EngineLoopTest, AClientThatStaysSlowIsCutOff) {
  Call slow;
  slow.sink->set_room([] { return TokenSink::Room::kFull; });
  slow.id = loop_->Submit(Request(4, 3), slow.sink);
  Step();
  EXPECT_FALSE(Step());
  clock_.Advance(std::chrono::seconds(30));
  Step();
  EXPECT_TRUE(absl::IsResourceExhausted(slow.outcome().status));
  EXPECT_THAT(std::string(slow.outcome().status.message()), HasSubstr("client reads too slowly"));
  EXPECT_EQ(slow.outcome().status.GetPayload(kReasonPayload), absl::Cord(kSlowClient));
  EXPECT_EQ(loop_->Load().blocks_in_use, 0);
}

TEST_F(EngineLoopTest, OneSequenceTooLongForTheCacheFailsAlone) {
  ScriptedOptions script;
  script.limits.num_blocks = 5;
  Make(script, {});
  const Call greedy = Submit(Request(8, 100));
  const Call modest = Submit(Request(4, 6));
  RunUntilIdle();
  EXPECT_TRUE(absl::IsResourceExhausted(greedy.outcome().status)) << greedy.outcome().status;
  EXPECT_THAT(std::string(greedy.outcome().status.message()), HasSubstr("20"));
  EXPECT_EQ(modest.outcome().finish_reason, FinishReason::kMaxTokens);
}

TEST_F(EngineLoopTest, DrainRefusesTheNewLetsTheOldFinishAndThenCutsOff) {
  Make({}, {});
  const Call runs = Submit(Request(4, 100));
  Step();
  const Call short_one = Submit(Request(4, 2));
  loop_->Drain(milliseconds(60));
  const Call late = Submit(Request());
  EXPECT_TRUE(loop_->Load().draining);
  RunUntilIdle();
  EXPECT_TRUE(absl::IsUnavailable(late.outcome().status));
  EXPECT_EQ(short_one.outcome().finish_reason, FinishReason::kMaxTokens);
  EXPECT_EQ(runs.outcome().finish_reason, FinishReason::kDrained);
  EXPECT_TRUE(runs.outcome().status.ok());
  EXPECT_GT(runs.sink->tokens().size(), 3u);
}

TEST_F(EngineLoopTest, DrainRefusesWhatIsStillQueuedAtTheEnd) {
  ScriptedOptions script;
  script.limits.max_sequences = 1;
  Make(script, {});
  const Call runs = Submit(Request(4, 100));
  const Call queued = Submit(Request());
  loop_->Drain(milliseconds(20));
  RunUntilIdle();
  EXPECT_EQ(runs.outcome().finish_reason, FinishReason::kDrained);
  EXPECT_TRUE(absl::IsUnavailable(queued.outcome().status));
  EXPECT_FALSE(queued.sink->started());
}

TEST_F(EngineLoopTest, ADeviceFaultFailsEverybodyOnceAndEverythingAfter) {
  const Call a = Submit(Request());
  const Call b = Submit(Request());
  Step();
  runner_->FailAtStep(1);
  Step();
  for (const Call& call : {a, b}) {
    EXPECT_TRUE(absl::IsInternal(call.outcome().status));
    EXPECT_EQ(call.sink->finished(), 1);
  }
  EXPECT_TRUE(absl::IsInternal(loop_->Load().failure));
  const Call late = Submit(Request());
  EXPECT_FALSE(Step());
  EXPECT_TRUE(absl::IsUnavailable(late.outcome().status));
  EXPECT_EQ(late.outcome().status.message(), "the engine stopped; try another server")
      << "what the device said is not for callers";
  EXPECT_THAT(std::string(loop_->Load().failure.message()), HasSubstr("scripted device fault"));
  EXPECT_TRUE(loop_->Idle());
}

TEST_F(EngineLoopTest, ATokenOutsideTheVocabularyIsADeviceFault) {
  const Call call = Submit(Request());
  runner_->GarbageAtStep(1);
  Step();
  EXPECT_TRUE(absl::IsInternal(call.outcome().status));
  EXPECT_THAT(std::string(call.outcome().status.message()), HasSubstr("token id 260"));
}

TEST_F(EngineLoopTest, ShutdownEndsEverybodyCancelled) {
  const Call running = Submit(Request(4, 100));
  Step();
  const Call posted = Submit(Request());
  loop_.reset();
  for (const Call& call : {running, posted}) {
    EXPECT_TRUE(absl::IsCancelled(call.outcome().status));
    EXPECT_EQ(call.sink->finished(), 1);
  }
  EXPECT_EQ(observer_.finished, 2);
}

TEST_F(EngineLoopTest, ScoringAPromptGeneratesNothing) {
  PreparedRequest request = Request(20, 0);
  request.params.response.prompt_logprobs = 2;
  const Call call = Submit(request);
  RunUntilIdle();
  EXPECT_EQ(call.outcome().finish_reason, FinishReason::kMaxTokens);
  EXPECT_EQ(call.outcome().usage.completion_tokens, 0);
  const auto scored = call.sink->prompt_logprobs();
  ASSERT_EQ(scored.size(), 20u);  // over two chunks
  for (size_t p = 1; p < 20; ++p) EXPECT_EQ(scored[p]->id, request.prompt_ids[p]);
}

TEST_F(EngineLoopTest, ScoringIsNotHiddenByTheCache) {
  PreparedRequest request = Request(12, 1);
  Submit(request);
  RunUntilIdle();
  request.params.response.prompt_logprobs = 0;
  const Call call = Submit(request);
  RunUntilIdle();
  EXPECT_EQ(call.outcome().usage.cached_tokens, 0);
  EXPECT_EQ(call.sink->prompt_logprobs().size(), 12u);
}

TEST_F(EngineLoopTest, ASecondPromptReusesTheFirstOnesBlocks) {
  const PreparedRequest request = Request(12, 4);
  const Call first = Submit(request);
  RunUntilIdle();
  const Call second = Submit(request);
  RunUntilIdle();
  EXPECT_EQ(first.outcome().usage.cached_tokens, 0);
  EXPECT_EQ(second.outcome().usage.cached_tokens, 8);
  EXPECT_EQ(second.sink->started()->cached_tokens, 8);
  EXPECT_EQ(first.sink->tokens(), second.sink->tokens());
}

TEST_F(EngineLoopTest, MinTokensForbidsEndsUntilThen) {
  runner_->set_script([](const BatchRow& row) {
    return std::optional<int32_t>(row.forbidden.empty() ? FakeTokenizer::kEos : 'x');
  });
  PreparedRequest request = Request(4, 10);
  request.params.stopping.min_tokens = 3;
  const Call call = Submit(request);
  RunUntilIdle();
  EXPECT_EQ(call.outcome().finish_reason, FinishReason::kEos);
  EXPECT_EQ(call.outcome().matched_token, FakeTokenizer::kEos);
  EXPECT_EQ(call.sink->text(), "xxx");
}

TEST_F(EngineLoopTest, LoadCountsWhatIsPostedButNotYetTaken) {
  EXPECT_EQ(loop_->Load().waiting, 0);
  Submit(Request());
  EXPECT_EQ(loop_->Load().waiting, 1);
  EXPECT_FALSE(loop_->Idle());
  Step();
  EXPECT_EQ(loop_->Load().running, 1);
  EXPECT_EQ(loop_->Load().waiting, 0);
  EXPECT_EQ(loop_->Load().steps, 1);
}

TEST_F(EngineLoopTest, TheStateDumpHasALineASequenceAndNoText) {
  PreparedRequest request = Request();
  request.prompt_ids = {'S', 'E', 'C', 'R', 'E', 'T'};
  const Call call = Submit(request);
  Step();
  const std::string dump = loop_->DescribeState();
  EXPECT_THAT(dump, HasSubstr("request 1: decode running"));
  EXPECT_THAT(dump, HasSubstr("prompt 6, generated 1 of 8"));
  EXPECT_EQ(dump.find("SECRET"), std::string::npos);
  EXPECT_THAT(loop_->DumpState(Duration(0)), HasSubstr("busy"));  // nobody steps the loop here
}

}  // namespace
}  // namespace nibble

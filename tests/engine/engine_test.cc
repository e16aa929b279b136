// The engine with its thread, under real threads: run it with -fsanitize=thread.
#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/engine/fakes/fake_tokenizer.h"
#include "tests/engine/fakes/recording_sink.h"
#include "tests/engine/fakes/scripted_runner.h"

namespace nibble {
namespace {

using ::testing::HasSubstr;

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runner = std::make_unique<ScriptedRunner>();
    runner_ = runner.get();
    EngineParts parts;
    parts.runner = std::move(runner);
    parts.tokenizer = std::make_unique<FakeTokenizer>();
    parts.chat_template = std::make_unique<FakeChatTemplate>();
    parts.clock = &clock_;
    EngineOptions options;
    options.max_running = 8;
    options.max_batch_tokens = 16;
    auto engine = Engine::Create(std::move(parts), options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  PreparedRequest Prepare(const std::string& text, int32_t max_tokens) {
    GenerateRequest request;
    request.prompt = TextPrompt{text};
    request.stopping.max_tokens = max_tokens;
    auto prepared = engine_->Prepare(std::move(request));
    EXPECT_TRUE(prepared.ok()) << prepared.status();
    return *std::move(prepared);
  }

  SteadyClock clock_;
  std::unique_ptr<Engine> engine_;
  ScriptedRunner* runner_ = nullptr;
};

TEST_F(EngineTest, NeedsItsParts) {
  EXPECT_TRUE(absl::IsInvalidArgument(Engine::Create({}, {}).status()));
}

TEST_F(EngineTest, AnswersAndSleepsAndAnswersAgain) {
  for (int i = 0; i < 3; ++i) {
    auto sink = std::make_shared<RecordingSink>();
    engine_->Submit(Prepare("hello", 20), sink);
    sink->WaitFinished();
    EXPECT_EQ(sink->outcome()->finish_reason, FinishReason::kMaxTokens);
    EXPECT_EQ(sink->text().size(), 20u);
  }
  EXPECT_EQ(engine_->Load().blocks_in_use, 0);
}

TEST_F(EngineTest, ManyThreadsSubmitCancelAndResumeAtOnce) {
  constexpr int kThreads = 4;
  constexpr int kEach = 40;
  std::vector<std::shared_ptr<RecordingSink>> sinks(kThreads * kEach);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < kEach; ++i) {
        auto sink = sinks[t * kEach + i] = std::make_shared<RecordingSink>();
        if (random() % 4 == 0) {
          sink->set_room([] { return TokenSink::Room::kFull; });  // resumed or cancelled below
        }
        const RequestId id = engine_->Submit(Prepare("prompt", 1 + random() % 30), sink);
        if (random() % 3 == 0) engine_->Cancel(id);
        for (int r = 0; r < 3; ++r) engine_->Resume(id);
        EXPECT_LE(engine_->Load().blocks_in_use, engine_->Load().num_blocks);
        if (i % 16 == 0) {
          EXPECT_THAT(engine_->DumpState(), HasSubstr("steps "));
        }
        engine_->Cancel(id - 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  engine_->Drain(std::chrono::milliseconds(50));
  for (const auto& sink : sinks) {
    sink->WaitFinished();
    EXPECT_EQ(sink->finished(), 1);
    EXPECT_EQ(sink->violation(), "");
  }
  EXPECT_EQ(engine_->Load().blocks_in_use, 0);
}

TEST_F(EngineTest, ASinkMayCallTheEngine) {
  class SelfCancelling final : public TokenSink {
   public:
    explicit SelfCancelling(Engine& engine) : engine_(engine) {}
    void OnStarted(const Started& started) override { id_ = started.id; }
    Room OnDelta(Delta) override {
      engine_.Cancel(id_);
      return Room::kFull;
    }
    void OnFinished(const Outcome& outcome) override { inner.OnFinished(outcome); }
    RecordingSink inner;

   private:
    Engine& engine_;
    RequestId id_ = 0;
  };
  auto sink = std::make_shared<SelfCancelling>(*engine_);
  engine_->Submit(Prepare("x", 100), sink);
  sink->inner.WaitFinished();
  EXPECT_TRUE(absl::IsCancelled(sink->inner.outcome()->status));
}

TEST_F(EngineTest, ASleepingEngineWakesForADeadline) {
  auto sink = std::make_shared<RecordingSink>();
  sink->set_room([] { return TokenSink::Room::kFull; });  // paused after one token: nothing to run
  PreparedRequest request = Prepare("x", 100);
  request.params.deadline = clock_.Now() + std::chrono::milliseconds(30);
  engine_->Submit(std::move(request), sink);
  sink->WaitFinished();
  EXPECT_TRUE(absl::IsDeadlineExceeded(sink->outcome()->status)) << sink->outcome()->status;
}

TEST_F(EngineTest, DrainEndsInIdle) {
  auto sink = std::make_shared<RecordingSink>();
  engine_->Submit(Prepare("x", 100), sink);
  engine_->Drain(std::chrono::seconds(30));
  sink->WaitFinished();
  EXPECT_EQ(sink->outcome()->finish_reason, FinishReason::kMaxTokens);  // there was time
  auto late = std::make_shared<RecordingSink>();
  engine_->Submit(Prepare("x", 1), late);
  late->WaitFinished();
  EXPECT_TRUE(absl::IsUnavailable(late->outcome()->status));
}

TEST_F(EngineTest, DestructionCancelsWhatIsLeft) {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 20; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    sinks.back()->set_room([] { return TokenSink::Room::kFull; });
    engine_->Submit(Prepare("x", 100), sinks.back());
  }
  engine_.reset();
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->finished(), 1);
    EXPECT_TRUE(absl::IsCancelled(sink->outcome()->status));
  }
}

}  // namespace
}  // namespace nibble

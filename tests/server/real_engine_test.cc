// The server with the real engine and a scripted model: what neither shows alone.
#include <random>
#include <thread>

#include "tests/engine/fakes/scripted_runner.h"
#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

class RealEngineTest : public ServerTest {
 protected:
  // The runner belongs to the engine, the engine to the server.
  void StartReal(std::function<void(ScriptedRunner&)> prepare = {}) {
    StartServer();
    auto runner = std::make_unique<ScriptedRunner>(ScriptedOptions{});
    if (prepare) prepare(*runner);
    EngineParts parts;
    parts.runner = std::move(runner);
    parts.tokenizer = std::make_unique<FakeTokenizer>();
    parts.chat_template = std::make_unique<FakeChatTemplate>();
    parts.clock = &clock_;
    parts.observer = server_->observer();
    auto engine = Engine::Create(std::move(parts), {.seed = 5});
    ASSERT_TRUE(engine.ok()) << engine.status();
    real_ = engine->get();
    server_->Serve(*std::move(engine), {.name = "m"});
    Eventually([&] { return HealthOf("") == grpc::health::v1::HealthCheckResponse::SERVING; },
               "SERVING");
  }

  struct Heard {
    grpc::Status status;
    std::string text;
    v1::Finished finished;
    int events = 0;
  };
  // Cancels after `most` events, if that many come.
  Heard Stream(v1::GenerationService::Stub& stub, const v1::GenerateStreamRequest& request,
               int most = 1 << 30) {
    Heard heard;
    grpc::ClientContext context;
    auto reader = stub.GenerateStream(&context, request);
    v1::GenerateStreamResponse event;
    while (reader->Read(&event)) {
      if (++heard.events >= most) context.TryCancel();
      if (event.has_delta()) heard.text += event.delta().text();
      if (event.has_finished()) heard.finished = event.finished();
    }
    heard.status = reader->Finish();
    return heard;
  }

  Engine* real_ = nullptr;
};

v1::GenerateStreamRequest Seeded(const std::string& text, int32_t tokens, uint64_t seed) {
  auto request = TextStreamRequest(text, tokens);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

TEST_F(RealEngineTest, UnaryAndStreamSayTheSame) {
  StartReal();
  const Heard streamed = Stream(*generation_, Seeded("abc", 40, 9));
  ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  EXPECT_EQ(streamed.text.size(), 40u);
  auto request = TextRequest("abc", 40);
  request.mutable_sampling()->set_seed(9);
  request.mutable_response()->set_logprobs(1);
  grpc::ClientContext context;
  v1::GenerateResponse response;
  ASSERT_TRUE(generation_->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.text(), streamed.text);
  EXPECT_EQ(response.logprobs_size(), 40);
  EXPECT_EQ(response.usage().completion_tokens(), 40);
  EXPECT_GT(response.timings().total_seconds(), 0);
  EXPECT_EQ(response.effective().sampling().seed(), 9u);
}

TEST_F(RealEngineTest, PromptLogprobsComeOncePerPositionButTheFirst) {
  StartReal();
  auto request = TextRequest("hello", 0);  // scores, generates nothing
  request.mutable_response()->set_prompt_logprobs(2);
  grpc::ClientContext context;
  v1::GenerateResponse response;
  ASSERT_TRUE(generation_->Generate(&context, request, &response).ok());
  EXPECT_EQ(response.token_ids_size(), 0);
  ASSERT_EQ(response.prompt_logprobs_size(), 5);
  EXPECT_EQ(response.prompt_logprobs(0).token_id(), 'h');
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
}

// More streams than sequences fit, cancelled after a random number of events: no block, no place is
// lost.
TEST_F(RealEngineTest, ACancelStormLeavesNothingBehind) {
  const uint32_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  StartReal();
  constexpr int kThreads = 6;
  constexpr int kEach = 25;
  std::atomic<int> lost{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(seed + t);
      auto stub = v1::GenerationService::NewStub(Opened(Connect()));
      for (int i = 0; i < kEach; ++i) {
        const std::string text(1 + random() % 30, static_cast<char>('a' + random() % 26));
        const Heard heard =
            Stream(*stub, Seeded(text, 1 + random() % 60, random()), 1 + random() % 40);
        const bool cancelled = heard.status.error_code() == grpc::StatusCode::CANCELLED;
        if (!heard.status.ok() && !cancelled) ++lost;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lost, 0);
  Eventually([&] { return OpenRequests() == 0 && real_->Idle(); }, "all to end");
  EXPECT_EQ(real_->Load().blocks_in_use, 0);
  const std::string scrape = Scrape();
  EXPECT_EQ(SumOf(scrape, "nibble_requests_started_total"), kThreads * kEach);
  EXPECT_EQ(SumOf(scrape, "nibble_requests_finished_total"), kThreads * kEach);
}

TEST_F(RealEngineTest, ADrainUnderLoadLosesNobody) {
  StartReal();
  constexpr int kStreams = 12;
  std::atomic<int> running{0};
  std::atomic<int> complete{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kStreams; ++t) {
    threads.emplace_back([&, t] {
      auto stub = v1::GenerationService::NewStub(Opened(Connect()));
      grpc::ClientContext context;
      auto reader = stub->GenerateStream(&context, Seeded("abc", 100, t));
      v1::GenerateStreamResponse event;
      int tokens = 0;
      while (reader->Read(&event)) {
        if (event.has_started()) ++running;
        if (event.has_delta()) tokens += event.delta().token_ids_size();
      }
      const grpc::Status status = reader->Finish();
      EXPECT_TRUE(status.ok()) << "stream " << t << ": " << status.error_message();
      if (event.finished().usage().completion_tokens() == tokens) ++complete;
    });
  }
  Eventually([&] { return running == kStreams; }, "all to run");
  server_->Drain();
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(complete, kStreams);
}

TEST_F(RealEngineTest, ADeviceFailureEndsAllStreamsAndTheServer) {
  StartReal([](ScriptedRunner& runner) { runner.FailAtStep(20); });
  const Heard heard = Stream(*generation_, Seeded("abc", 100, 1));
  EXPECT_EQ(heard.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(server_->WaitUntilDrained().code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(Stream(*generation_, Seeded("abc", 1, 1)).status.ok());
}

TEST_F(RealEngineTest, AStopTextNeverShows) {
  StartReal([](ScriptedRunner& runner) {
    // "xyzEND" and on.
    runner.set_script([](const BatchRow& row) -> std::optional<int32_t> {
      const std::string said = "xyzENDmore";
      const size_t at =
          static_cast<size_t>(row.num_computed + row.num_scheduled - row.prompt_length);
      return said[at % said.size()];
    });
  });
  auto request = Seeded("abc", 100, 1);
  request.mutable_stopping()->add_stop(std::string("END"));
  const Heard heard = Stream(*generation_, request);
  ASSERT_TRUE(heard.status.ok()) << heard.status.error_message();
  EXPECT_EQ(heard.text, "xyz");
  EXPECT_EQ(heard.finished.finish_reason(), v1::FINISH_REASON_STOP_SEQUENCE);
  EXPECT_EQ(heard.finished.matched_stop(), "END");
}

// The client's timer would race with the server's: its deadline is far off, and the server's clock
// jumps past it at the third step.
TEST_F(RealEngineTest, AClientsDeadlineEndsItsRequestEverywhere) {
  StartReal([this](ScriptedRunner& runner) {
    runner.set_before_step([this, steps = 0](const Batch&) mutable {
      if (++steps == 3) clock_.Advance(std::chrono::hours(2));
    });
  });
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
  v1::GenerateResponse response;
  EXPECT_EQ(generation_->Generate(&context, TextRequest("abc", 100), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  Eventually([&] { return OpenRequests() == 0 && real_->Load().blocks_in_use == 0; },
             "its blocks back");
  EXPECT_TRUE(LogHas("\"code\":\"DEADLINE_EXCEEDED\""));
}

}  // namespace
}  // namespace nibble

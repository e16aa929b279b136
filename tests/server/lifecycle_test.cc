// Loading, serving, draining, stalling, failing: what health says and what happens to calls.
#include <thread>

#include "server/health.h"
#include "server/watchdog.h"
#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

using Behaviour = FakeEngine::Behaviour;
using grpc::health::v1::HealthCheckResponse;

constexpr Duration kNever = std::chrono::hours(1000);  // however slow a machine is

const char* const kNames[] = {"", "m", "nibble.v1.GenerationService", "nibble.v1.TokenizerService",
                              "nibble.v1.ModelService"};

TEST_F(ServerTest, HealthFollowsLoadingServingAndDraining) {
  StartServer();
  for (const char* name : kNames)
    EXPECT_EQ(HealthOf(name), HealthCheckResponse::NOT_SERVING) << name;
  EXPECT_EQ(HealthOf("liveness"), HealthCheckResponse::SERVING)
      << "loading is no reason to restart";
  ServeFake({.behaviour = Behaviour::kHoldPrefill});
  for (const char* name : kNames) EXPECT_EQ(HealthOf(name), HealthCheckResponse::SERVING) << name;

  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().running == 1; }, "a running request");
  server_->Drain();
  Eventually([&] { return HealthOf("") == HealthCheckResponse::NOT_SERVING; }, "NOT_SERVING");
  EXPECT_EQ(HealthOf("liveness"), HealthCheckResponse::SERVING) << "draining is no reason to kill";
  context.TryCancel();
  reader->Finish();
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
}

TEST_F(ServerTest, HealthOfAnUnknownNameIsNotFound) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("nonsense");
  HealthCheckResponse response;
  EXPECT_EQ(stub->Check(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, WatchTellsEachChangeAndEndsWithTheServer) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  auto reader = stub->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  ServeFake();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->Drain();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
}

TEST_F(ServerTest, AWatchOfAnUnknownNameWaitsForIt) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("nonsense");
  auto reader = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  context.TryCancel();
  EXPECT_FALSE(reader->Read(&response));
  reader->Finish();
}

// A watch keeps its name, and costs a client nothing.
TEST_F(ServerTest, NamesThatNobodyKnowsAreNotKeptAtAnyLength) {
  options_.model_name = std::string(2 * kMaxNameBytes, 'm');
  StartServer();
  EXPECT_EQ(HealthOf(options_.model_name), HealthCheckResponse::NOT_SERVING) << "the operator's";
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(std::string(kMaxNameBytes + 1, 'x'));
  HealthCheckResponse response;
  grpc::ClientContext check;
  const grpc::Status refused = stub->Check(&check, request, &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(refused.error_message().find("257"), std::string::npos);
  grpc::ClientContext watch;
  auto reader = stub->Watch(&watch, request);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServerTest, WatchesBeyondTheLimitEndWithoutAWord) {
  StartServer();
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  std::vector<grpc::ClientContext> contexts(kMaxWatches + 1);
  std::vector<std::unique_ptr<grpc::ClientReader<HealthCheckResponse>>> watches;
  HealthCheckResponse response;
  for (int i = 0; i < kMaxWatches; ++i) {
    watches.push_back(stub->Watch(&contexts[i], {}));
    ASSERT_TRUE(watches.back()->Read(&response));
  }
  auto reader = stub->Watch(&contexts.back(), {});
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  for (int i = 0; i < kMaxWatches; ++i) {
    contexts[i].TryCancel();
    watches[i]->Finish();
  }
}

TEST_F(ServerTest, ADrainRefusesNewCallsOnLiveConnectionsAndEndsTheRest) {
  options_.drain_timeout = std::chrono::seconds(5);
  StartServing({.behaviour = Behaviour::kEndless});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  server_->Drain();
  server_->Drain();  // again changes nothing

  grpc::ClientContext late;
  v1::GenerateResponse response;
  const grpc::Status refused = generation_->Generate(&late, TextRequest("x", 1), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused).has_value());

  clock_.Advance(std::chrono::seconds(6));  // the drain timeout passes
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(event.finished().finish_reason(), v1::FINISH_REASON_DRAINED);
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
  EXPECT_EQ(HealthOf(""), HealthCheckResponse::UNKNOWN) << "nobody listens any more";
}

TEST_F(ServerTest, ADrainLetsRunningRequestsFinish) {
  StartServing({.behaviour = Behaviour::kComplete, .max_context = 20'000});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 5000));
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  server_->Drain();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(event.finished().finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
}

// A client with one channel stayed on the server that was leaving, and every call of it was
// refused, as long as anybody else's call ran; another replica was there.
TEST_F(ServerTest, ADrainSendsClientsElsewhereAndLetsTheirCallsFinish) {
  options_.turn_away_after = std::chrono::hours(1);
  options_.drain_timeout = kNever;
  options_.pause_timeout = kNever;
  options_.limits.max_stream_buffer_bytes = 4096;
  StartServing(
      {.behaviour = Behaviour::kComplete, .max_context = 200'000, .bytes_per_token = 1000});
  grpc::ClientContext context, watch_context;
  auto health_stub = grpc::health::v1::Health::NewStub(channel_);
  auto watch = health_stub->Watch(&watch_context, {});
  HealthCheckResponse health;
  ASSERT_TRUE(watch->Read(&health));
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 20'000));
  Eventually([&] { return engine_->paused_times() > 0; }, "a stream that waits for its reader");
  server_->Drain();
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(health.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(channel_->GetState(false), GRPC_CHANNEL_READY);
  EXPECT_FALSE(LogHas("turned_away")) << "calls are refused first, with a reason";

  clock_.Advance(std::chrono::hours(1));
  const auto in_vain = std::chrono::system_clock::now() + std::chrono::seconds(20);
  ASSERT_TRUE(channel_->WaitForStateChange(GRPC_CHANNEL_READY, in_vain)) << "no GOAWAY came";
  EXPECT_EQ(ConnectRaw(server_->ports().grpc), -1) << "the port is still open";
  grpc::ClientContext late;
  v1::GenerateResponse response;
  EXPECT_EQ(generation_->Generate(&late, TextRequest("x", 1), &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);

  int ids = 0;
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) ids += event.delta().token_ids_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(ids, 20'000);
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
  EXPECT_TRUE(LogHas("turned_away"));
  EXPECT_FALSE(watch->Read(&health)) << "an open watch holds up no end";
  watch->Finish();
}

TEST_F(ServerTest, ADrainThatTurnedClientsAwayDoesNotWaitForOneThatDoesNotRead) {
  options_.turn_away_after = Duration::zero();
  options_.drain_timeout = std::chrono::hours(1);
  options_.pause_timeout = options_.stall_timeout = kNever;
  StartServing({.behaviour = Behaviour::kEndless, .bytes_per_token = 1000});
  grpc::ClientContext context;
  auto silent = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().paused == 1; }, "the pause");
  server_->Drain();
  Eventually([&] { return LogHas("turned_away"); }, "the GOAWAY");
  clock_.Advance(std::chrono::hours(2));
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
  context.TryCancel();
  silent->Finish();
}

TEST_F(ServerTest, DestructionEndsADrainThatTurnedClientsAway) {
  options_.turn_away_after = Duration::zero();
  options_.drain_timeout = kNever;
  StartServing({.behaviour = Behaviour::kEndless});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  server_->Drain();
  Eventually([&] { return LogHas("turned_away"); }, "the GOAWAY");
  server_.reset();
  while (reader->Read(&event)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

// A client that does not read may not hold up the end of the process.
TEST_F(ServerTest, ADrainDoesNotWaitForAClientThatDoesNotRead) {
  options_.drain_timeout = std::chrono::seconds(5);
  StartServing({.behaviour = Behaviour::kEndless, .bytes_per_token = 1000});
  grpc::ClientContext context;
  auto silent = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().paused == 1; }, "the pause");
  server_->Drain();
  std::thread time_passes([&] {
    Eventually(
        [&] {
          clock_.Advance(std::chrono::seconds(8));
          return LogHas("\"drained\"");
        },
        "the end");
  });
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
  time_passes.join();
  context.TryCancel();
  silent->Finish();
}

// Its calls' reactors can never end, so the shutdown would wait for ever, and so would whoever sent
// the signal.
TEST_F(ServerTest, ADrainOfAStuckEngineEndsTheProcess) {
  std::atomic<int> ended{-1};
  options_.end_process = [&](int status) { ended = status; };
  options_.drain_timeout = std::chrono::seconds(5);
  StartServing({.behaviour = Behaviour::kHoldPrefill});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().running == 1; }, "a running request");
  engine_->SetStuck(true);
  server_->Drain();
  Eventually(
      [&] {
        clock_.Advance(std::chrono::seconds(1));
        return ended != -1;
      },
      "the end of the process");
  EXPECT_EQ(ended, 1);
  EXPECT_TRUE(LogHas("drain_stuck"));
  engine_->SetStuck(false);  // a test has to go on
  EXPECT_EQ(server_->WaitUntilDrained().code(), absl::StatusCode::kInternal);
  context.TryCancel();
  reader->Finish();
}

TEST_F(ServerTest, ADrainBeforeTheModelIsLoadedEndsAtOnce) {
  StartServer();
  server_->Drain();
  EXPECT_TRUE(server_->WaitUntilDrained().ok());
  // The model arrives too late.
  auto engine = std::make_unique<FakeEngine>(clock_, FakeEngine::Options{});
  server_->Serve(std::move(engine), {.name = "m"});
}

TEST_F(ServerTest, AnEngineThatNoLongerStepsIsNotServingAndNotAlive) {
  options_.stall_timeout = std::chrono::seconds(30);
  StartServing();
  engine_->SetStuck(true);
  Eventually(
      [&] {
        clock_.Advance(std::chrono::seconds(10));
        return HealthOf("liveness") == HealthCheckResponse::NOT_SERVING;
      },
      "the stall to be noticed");
  EXPECT_EQ(HealthOf(""), HealthCheckResponse::NOT_SERVING);
  EXPECT_TRUE(LogHas("engine_stalled"));
  engine_->SetStuck(false);
  Eventually([&] { return HealthOf("") == HealthCheckResponse::SERVING; }, "it to move again");
  EXPECT_EQ(HealthOf("liveness"), HealthCheckResponse::SERVING);
}

// A server was restarted in the middle of a prompt: 512 tokens of a 70B model on two cores are one
// step of minutes.
TEST_F(ServerTest, ALongStepIsNoStallWhileItsLayersEnd) {
  options_.stall_timeout = std::chrono::hours(1);
  StartServing();
  engine_->SetStuck(true);  // in a step
  for (int i = 0; i < 3; ++i) {
    engine_->FinishLayer();
    clock_.Advance(std::chrono::minutes(40));
    const int64_t before = engine_->loads();
    Eventually([&] { return engine_->loads() >= before + 2; }, "a look of the watchdog");
  }
  EXPECT_FALSE(LogHas("engine_stalled"));
  clock_.Advance(std::chrono::hours(1));
  Eventually([&] { return LogHas("engine_stalled"); }, "the stall, without a layer");
}

// A healthy server was restarted because one slow client's sequence had been preempted.
TEST_F(ServerTest, SequencesThatWaitForTheirClientsAreNoStall) {
  options_.stall_timeout = std::chrono::seconds(1);
  StartServing();
  engine_->SetPausedWaiting(2);
  for (int i = 0; i < 3; ++i) {
    clock_.Advance(std::chrono::hours(1));
    const int64_t before = engine_->loads();
    Eventually([&] { return engine_->loads() >= before + 2; }, "a look of the watchdog");
  }
  EXPECT_EQ(HealthOf("liveness"), HealthCheckResponse::SERVING);
  EXPECT_FALSE(LogHas("engine_stalled"));
}

// A longer --pause-timeout had no effect: the watchdog cut the client off first.
TEST(WatchdogTest, NoCallIsCutOffBeforeItsPauseIsOver) {
  ServerOptions options;
  EXPECT_EQ(StuckAfter(options), kStuckCall);
  options.pause_timeout = std::chrono::seconds(10);
  EXPECT_EQ(StuckAfter(options), kStuckCall) << "also what has no pause is cut off";
  options.pause_timeout = std::chrono::minutes(5);
  EXPECT_GT(StuckAfter(options), options.pause_timeout);
}

TEST_F(ServerTest, AnIdleEngineIsNotStalled) {
  options_.stall_timeout = std::chrono::seconds(1);
  StartServing();
  for (int i = 0; i < 3; ++i) {
    clock_.Advance(std::chrono::hours(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(120));  // a look of the watchdog
  }
  EXPECT_EQ(HealthOf(""), HealthCheckResponse::SERVING);
}

TEST_F(ServerTest, AFailedEngineEndsAllCallsAndTheServer) {
  StartServing({.behaviour = Behaviour::kHoldPrefill});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().running == 1; }, "the request");
  engine_->Fail(absl::InternalError("device 0 fell off the bus"));
  const absl::Status over = server_->WaitUntilDrained();
  EXPECT_EQ(over.code(), absl::StatusCode::kInternal);
  EXPECT_NE(over.message().find("fell off"), absl::string_view::npos) << "the operator is told why";
  EXPECT_EQ(HealthOf("liveness"), HealthCheckResponse::NOT_SERVING);

  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message().find("fell off"), std::string::npos) << "the client is not";
  EXPECT_TRUE(LogHas("fell off"));

  grpc::ClientContext late;
  v1::GenerateResponse response;
  EXPECT_EQ(generation_->Generate(&late, TextRequest("x", 1), &response).error_code(),
            grpc::StatusCode::INTERNAL);
}

TEST_F(ServerTest, DestructionCancelsWhatIsOpen) {
  StartServing({.behaviour = Behaviour::kEndless});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  server_.reset();
  while (reader->Read(&event)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  EXPECT_TRUE(LogHas("\"reason\":\"cancelled\""));
}

TEST_F(ServerTest, OptionsThatCannotWorkAreNamed) {
  const auto message_of = [&](const ServerOptions& options) {
    const auto server = Server::Start(options, clock_);
    return server.ok() ? std::string("started") : std::string(server.status().message());
  };
  ServerOptions bad = options_;
  bad.limits.max_request_bytes = 0;
  EXPECT_NE(message_of(bad).find("--max-request-bytes"), std::string::npos);
  bad = options_;
  bad.metrics_alias = "tgi";
  EXPECT_NE(message_of(bad).find("--metrics-alias"), std::string::npos);
  bad = options_;
  bad.drain_timeout = std::chrono::seconds(-1);
  EXPECT_NE(message_of(bad).find("--drain-timeout"), std::string::npos);
  bad = options_;
  bad.listen = "nonsense";
  EXPECT_NE(message_of(bad).find("--listen"), std::string::npos);
  bad = options_;
  bad.metrics_listen = "nonsense";
  EXPECT_NE(message_of(bad).find("--metrics-listen"), std::string::npos);
}

TEST_F(ServerTest, AnOpenPortWithoutTlsIsWarnedAbout) {
  StartServer();
  EXPECT_FALSE(LogHas("listening_without_tls"));
  server_.reset();
  options_.listen = std::string("0.0.0.0:0");
  StartServer();
  EXPECT_TRUE(LogHas("listening_without_tls"));
}

}  // namespace
}  // namespace nibble

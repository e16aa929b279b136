// GenerationService end to end over a real connection, with a fake engine behind it.
#include <thread>

#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

using Behaviour = FakeEngine::Behaviour;

TEST_F(ServerTest, GenerateAnswersWithTextUsageAndEffectiveParams) {
  StartServing();
  grpc::ClientContext context;
  v1::GenerateResponse response;
  auto request = TextRequest("abc", 2);
  request.mutable_sampling()->set_temperature(0);  // zero is a value, not absence
  ASSERT_TRUE(generation_->Generate(&context, request, &response).ok());
  // The fake repeats the prompt, BOS first ("?").
  EXPECT_EQ(response.text(), "?a");
  EXPECT_EQ(response.token_ids_size(), 2);
  EXPECT_EQ(response.finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_EQ(response.usage().prompt_tokens(), 4);
  EXPECT_EQ(response.usage().completion_tokens(), 2);
  EXPECT_EQ(response.model(), "m");
  EXPECT_TRUE(response.effective().sampling().has_temperature());
  EXPECT_EQ(response.effective().sampling().temperature(), 0);
  EXPECT_EQ(response.effective().sampling().top_p(), 1);
  EXPECT_TRUE(response.effective().sampling().has_seed());  // drawn, and told
  EXPECT_EQ(response.effective().stopping().max_tokens(), 2);
  EXPECT_FALSE(response.effective().response().has_logprobs());
  EXPECT_EQ(TrailerOf(context, "x-request-id"), response.request_id());
  EXPECT_EQ(TrailerOf(context, "nibble-prompt-tokens"), "4");
  EXPECT_EQ(TrailerOf(context, "nibble-queue-seconds"), "0.003000");
}

TEST_F(ServerTest, StreamIsStartedThenDeltasThenFinished) {
  StartServing();
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("hello", 5));
  v1::GenerateStreamResponse event;
  ASSERT_TRUE(reader->Read(&event));
  ASSERT_TRUE(event.has_started());
  EXPECT_EQ(event.started().prompt_tokens(), 6);
  EXPECT_EQ(event.started().cached_tokens(), 1);
  std::string text;
  int finished = 0;
  int ids = 0;
  while (reader->Read(&event)) {
    ASSERT_EQ(finished, 0) << "nothing comes after Finished";
    if (event.has_delta()) {
      text += event.delta().text();
      ids += event.delta().token_ids_size();
    } else {
      ASSERT_TRUE(event.has_finished());
      ++finished;
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(finished, 1);
  EXPECT_EQ(text, "?hell");
  EXPECT_EQ(ids, 5);
  EXPECT_EQ(event.finished().finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_EQ(event.finished().usage().completion_tokens(), 5);
}

TEST_F(ServerTest, TokenIdsAndChatAreTakenToo) {
  StartServing();
  v1::GenerateResponse response;
  {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids('x');
    request.mutable_stopping()->set_max_tokens(1);
    ASSERT_TRUE(generation_->Generate(&context, request, &response).ok());
    EXPECT_EQ(response.text(), "x");
  }
  grpc::ClientContext context;
  v1::GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  request.mutable_stopping()->set_max_tokens(1);
  const grpc::Status status = generation_->Generate(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ServerTest, DeltaIntervalSendsFewerAndLargerDeltas) {
  StartServing();
  grpc::ClientContext context;
  auto request = TextStreamRequest("hello", 41);
  request.mutable_response()->set_delta_interval_tokens(10);
  auto reader = generation_->GenerateStream(&context, request);
  std::vector<int> sizes;
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
    if (event.has_delta()) sizes.push_back(event.delta().token_ids_size());
  }
  EXPECT_TRUE(reader->Finish().ok());
  // The first goes at once, whatever it holds; the last may be short.
  for (size_t i = 1; i + 1 < sizes.size(); ++i) EXPECT_GE(sizes[i], 10) << i;
  EXPECT_LE(sizes.size(), 6u);
}

TEST_F(ServerTest, CancelMidStreamEndsTheRequestInTheEngine) {
  StartServing({.behaviour = Behaviour::kEndless});
  grpc::ClientContext context;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 10));
  v1::GenerateStreamResponse event;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  Eventually([&] { return engine_->open() == 0; }, "the engine to drop the request");
  Eventually([&] { return LogHas("\"reason\":\"cancelled\""); }, "the log line");
}

TEST_F(ServerTest, CancelledUnaryCallEndsInTheEngine) {
  StartServing({.behaviour = Behaviour::kEndless});
  grpc::ClientContext context;
  v1::GenerateResponse response;
  std::thread canceller([&] {
    Eventually([&] { return engine_->tokens() > 0; }, "a token");
    context.TryCancel();
  });
  EXPECT_EQ(generation_->Generate(&context, TextRequest("x", 10), &response).error_code(),
            grpc::StatusCode::CANCELLED);
  canceller.join();
  Eventually([&] { return engine_->open() == 0; }, "the engine to drop the request");
}

TEST_F(ServerTest, ADisconnectedClientCountsAsGone) {
  StartServing({.behaviour = Behaviour::kEndless});
  {
    auto channel = Opened(Connect());
    auto stub = v1::GenerationService::NewStub(channel);
    grpc::ClientContext context;
    auto reader = stub->GenerateStream(&context, TextStreamRequest("x", 10));
    v1::GenerateStreamResponse event;
    ASSERT_TRUE(reader->Read(&event));
  }  // reader, stub and channel go without a word
  Eventually([&] { return engine_->open() == 0; }, "the engine to drop the request");
}

// The stage is where the request was when its time was up.
class DeadlineTest : public ServerTest,
                     public ::testing::WithParamInterface<std::pair<Behaviour, const char*>> {};

TEST_P(DeadlineTest, NamesTheStage) {
  const auto [behaviour, stage] = GetParam();
  StartServing({.behaviour = behaviour});
  grpc::ClientContext context;
  // The client's own timer would win over the server's answer. A deadline of the server alone: the
  // client's is in the far future, and the server's clock jumps past it.
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", 1000));
  std::thread jump([&, behaviour = behaviour] {
    Eventually([&] { return engine_->submitted() == 1; }, "the request");
    if (behaviour == Behaviour::kEndless)
      Eventually([&] { return engine_->tokens() > 0; }, "a token");
    if (behaviour == Behaviour::kHoldPrefill) {
      Eventually([&] { return engine_->Load().running == 1; }, "the start");
    }
    clock_.Advance(std::chrono::hours(2));
  });
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  jump.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->metadata().at("stage"), stage);
  EXPECT_EQ(info->domain(), "nibble");
}

INSTANTIATE_TEST_SUITE_P(Stages, DeadlineTest,
                         ::testing::Values(std::pair{Behaviour::kHoldQueued, "queued"},
                                           std::pair{Behaviour::kHoldPrefill, "prefill"},
                                           std::pair{Behaviour::kEndless, "decode"}),
                         [](const auto& info) { return std::string(info.param.second); });

// gRPC takes an expired call away with its own timer, before the engine's look at the deadline or
// after it. Here the engine never looks, and the cancellation comes once the deadline has passed.
TEST_F(ServerTest, ACallTakenAwayAtItsDeadlineIsBookedAsDeadline) {
  StartServing({.behaviour = Behaviour::kHoldQueued, .keeps_deadlines = false});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
  std::thread timer([&] {
    Eventually([&] { return engine_->submitted() == 1; }, "the request");
    clock_.Advance(std::chrono::hours(2));  // grpc-timeout is rounded up
    context.TryCancel();
  });
  v1::GenerateResponse response;
  EXPECT_FALSE(generation_->Generate(&context, TextRequest("x", 1), &response).ok());
  timer.join();
  Eventually([&] { return LogHas("\"reason\":\"deadline_queued\""); }, "the log line");
  EXPECT_FALSE(LogHas("\"reason\":\"cancelled\""));
}

TEST_F(ServerTest, ASlowReaderPausesItsSequenceAndLosesNothing) {
  options_.limits.max_stream_buffer_bytes = 4096;
  StartServing(
      {.behaviour = Behaviour::kComplete, .max_context = 200'000, .bytes_per_token = 1000});
  grpc::ClientContext context;
  constexpr int kTokens = 20'000;
  auto reader = generation_->GenerateStream(&context, TextStreamRequest("x", kTokens));
  Eventually([&] { return engine_->paused_times() > 0; }, "the sequence to pause");
  int64_t ids = 0;
  int messages = 0;
  v1::GenerateStreamResponse event;
  while (reader->Read(&event)) {
    if (event.has_delta()) ids += event.delta().token_ids_size();
    ++messages;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(ids, kTokens);
  EXPECT_LT(messages, kTokens) << "deltas merge while a write is in flight";
}

TEST_F(ServerTest, OtherStreamsRunWhileOneClientDoesNotRead) {
  options_.limits.max_stream_buffer_bytes = 4096;
  StartServing({.behaviour = Behaviour::kEndless, .bytes_per_token = 1000});
  grpc::ClientContext stalled;
  auto silent = generation_->GenerateStream(&stalled, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().paused == 1; }, "the silent client's pause");
  grpc::ClientContext context;
  auto reader = v1::GenerationService::NewStub(Opened(Connect()))
                    ->GenerateStream(&context, TextStreamRequest("y", 1));
  v1::GenerateStreamResponse event;
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  stalled.TryCancel();
  reader->Finish();
  silent->Finish();
}

// It would hold its place for ever: it neither reads nor leaves, and its sequence has long ended.
TEST_F(ServerTest, AClientThatNeverReadsIsCutOff) {
  StartServing({.behaviour = Behaviour::kEndless, .bytes_per_token = 1000});
  grpc::ClientContext context;
  auto silent = generation_->GenerateStream(&context, TextStreamRequest("x", 1));
  Eventually([&] { return engine_->Load().paused == 1; }, "the pause");
  // The transport's window may still take a little after a pause; then it stands still.
  Eventually(
      [&] {
        clock_.Advance(std::chrono::minutes(2));
        return engine_->open() == 0;
      },
      "the cut");
  Eventually([&] { return LogHas("calls_aborted"); }, "the log line");
  context.TryCancel();  // a client that has unread messages waits for ever in Finish otherwise
  silent->Finish();
}

// Its window takes 64 KiB of the answer and it asks for no more, while its connection lives.
TEST_F(ServerTest, AClientThatNeverReadsAUnaryAnswerIsCutOff) {
  options_.limits.max_open_requests = 1;
  StartServing({.bytes_per_token = 1000});
  UnreadCall<v1::GenerateResponse> unread(
      Connect(grpc::InsecureChannelCredentials(), SmallWindow()));
  auto stub = v1::GenerationService::NewStub(unread.channel());
  unread.Start(
      stub->PrepareAsyncGenerate(unread.context(), TextRequest("x", 1000), unread.queue()));
  Eventually([&] { return LogHas("request_finished") && engine_->open() == 0; }, "the answer");
  EXPECT_EQ(OpenRequests(), 1) << "it holds its place";
  Eventually(
      [&] {
        clock_.Advance(std::chrono::seconds(10));
        return OpenRequests() == 0;
      },
      "the cut");
  Eventually([&] { return LogHas("calls_aborted"); }, "the log line");
  EXPECT_EQ(unread.Finish().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace nibble

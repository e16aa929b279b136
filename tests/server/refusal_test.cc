// What is refused, and what the client is told: hostile and wrong requests over a real connection.
#include <grpcpp/generic/generic_stub.h>

#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

using Behaviour = FakeEngine::Behaviour;

grpc::Status Call(v1::GenerationService::Stub& stub, const v1::GenerateRequest& request,
                  grpc::ClientContext* context = nullptr) {
  grpc::ClientContext own;
  v1::GenerateResponse response;
  return stub.Generate(context != nullptr ? context : &own, request, &response);
}

TEST_F(ServerTest, EveryBadFieldIsNamed) {
  StartServing();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  using Spoil = std::function<void(v1::GenerateRequest&)>;
  const std::pair<const char*, Spoil> kCases[] = {
      {"prompt", [](auto& r) { r.clear_prompt(); }},
      {"token_ids", [](auto& r) { r.mutable_token_ids(); }},
      {"token_ids.ids[1]",
       [](auto& r) {
         r.mutable_token_ids()->add_ids(1);
         r.mutable_token_ids()->add_ids(-1);
       }},
      {"token_ids.ids[0]",
       [](auto& r) { r.mutable_token_ids()->add_ids(std::numeric_limits<int32_t>::max()); }},
      {"chat.messages", [](auto& r) { r.mutable_chat(); }},
      {"chat.messages[0].role",
       [](auto& r) { r.mutable_chat()->add_messages()->set_content("x"); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(kNan); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-0.1f); }},
      {"sampling.temperature", [](auto& r) { r.mutable_sampling()->set_temperature(kInf); }},
      {"sampling.top_k", [](auto& r) { r.mutable_sampling()->set_top_k(-1); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(1.4f); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(0); }},
      {"sampling.top_p", [](auto& r) { r.mutable_sampling()->set_top_p(kNan); }},
      {"sampling.min_p", [](auto& r) { r.mutable_sampling()->set_min_p(-kInf); }},
      {"sampling.repetition_penalty",
       [](auto& r) { r.mutable_sampling()->set_repetition_penalty(0); }},
      {"sampling.repetition_penalty",
       [](auto& r) { r.mutable_sampling()->set_repetition_penalty(1e-38f); }},
      {"sampling.presence_penalty",
       [](auto& r) { r.mutable_sampling()->set_presence_penalty(1e30f); }},
      {"sampling.frequency_penalty",
       [](auto& r) { r.mutable_sampling()->set_frequency_penalty(kNan); }},
      {"sampling.logit_bias[5]",
       [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = kNan; }},
      {"sampling.logit_bias[-7]",
       [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[-7] = 1; }},
      {"sampling.allowed_token_ids[0]",
       [](auto& r) { r.mutable_sampling()->add_allowed_token_ids(1 << 30); }},
      {"stopping.max_tokens", [](auto& r) { r.mutable_stopping()->set_max_tokens(-1); }},
      {"stopping.min_tokens", [](auto& r) { r.mutable_stopping()->set_min_tokens(-1); }},
      {"stopping.stop[0]", [](auto& r) { r.mutable_stopping()->add_stop(); }},
      {"stopping.stop[0]", [](auto& r) { r.mutable_stopping()->add_stop(std::string(257, 'x')); }},
      {"stopping.stop",
       [](auto& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop(std::string(1, 'x'));
       }},
      {"stopping.stop_token_ids[0]", [](auto& r) { r.mutable_stopping()->add_stop_token_ids(-2); }},
      {"response.logprobs", [](auto& r) { r.mutable_response()->set_logprobs(-1); }},
      {"response.logprobs", [](auto& r) { r.mutable_response()->set_logprobs(21); }},
      {"response.prompt_logprobs",
       [](auto& r) { r.mutable_response()->set_prompt_logprobs(1 << 30); }},
      {"priority", [](auto& r) { r.set_priority(101); }},
      {"cache_salt", [](auto& r) { r.set_cache_salt(std::string(257, 'x')); }},
      {"time_limit_seconds", [](auto& r) { r.set_time_limit_seconds(std::nan("")); }},
      {"time_limit_seconds", [](auto& r) { r.set_time_limit_seconds(-1); }},
  };
  int started = 0;
  for (const auto& [field, spoil] : kCases) {
    v1::GenerateRequest request = TextRequest("x", 1);
    spoil(request);
    const grpc::Status status = Call(*generation_, request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << field << ": " << status.error_message();
    const auto bad = DetailOf<google::rpc::BadRequest>(status);
    ASSERT_TRUE(bad.has_value()) << field;
    EXPECT_EQ(bad->field_violations(0).field(), field);
    ++started;
  }
  EXPECT_EQ(engine_->submitted(), 0);
  const std::string scrape = Scrape();
  EXPECT_EQ(Sample(scrape,
                   "nibble_requests_finished_total{model=\"m\",code=\"INVALID_ARGUMENT\","
                   "reason=\"invalid_argument\"}"),
            started);
}

TEST_F(ServerTest, AnotherModelIsNotFound) {
  StartServing();
  v1::GenerateRequest request = TextRequest("x", 1);
  request.set_model("m");
  EXPECT_TRUE(Call(*generation_, request).ok());
  request.set_model("other");
  const grpc::Status status = Call(*generation_, request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_NE(status.error_message().find("'other'"), std::string::npos);
  EXPECT_NE(status.error_message().find("'m'"), std::string::npos);
}

TEST_F(ServerTest, WhileLoadingCallsAreToldToComeBack) {
  StartServer();
  grpc::ClientContext context;
  const grpc::Status status = Call(*generation_, TextRequest("x", 1), &context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto retry = DetailOf<google::rpc::RetryInfo>(status);
  ASSERT_TRUE(retry.has_value());
  EXPECT_EQ(retry->retry_delay().seconds(), 5);
  EXPECT_EQ(TrailerOf(context, "grpc-retry-pushback-ms"), "5000");
  ServeFake();
  EXPECT_TRUE(Call(*generation_, TextRequest("x", 1)).ok());
}

TEST_F(ServerTest, AFullQueueIsSaidWithQuotaAndRetry) {
  options_.limits.max_open_requests = 2;
  StartServing({.behaviour = Behaviour::kHoldQueued});
  grpc::ClientContext contexts[2];
  std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> held[2];
  for (int i = 0; i < 2; ++i)
    held[i] = generation_->GenerateStream(&contexts[i], TextStreamRequest("x", 1));
  Eventually([&] { return engine_->submitted() == 2; }, "two requests");

  grpc::ClientContext context;
  const grpc::Status status = Call(*generation_, TextRequest("x", 1), &context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto quota = DetailOf<google::rpc::QuotaFailure>(status);
  ASSERT_TRUE(quota.has_value());
  EXPECT_EQ(quota->violations(0).subject(), "open_requests");
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(status).has_value());
  EXPECT_EQ(TrailerOf(context, "grpc-retry-pushback-ms"), "1000");
  EXPECT_EQ(
      Sample(Scrape(), "nibble_admission_rejections_total{model=\"m\",reason=\"open_requests\"}"),
      1);

  for (int i = 0; i < 2; ++i) {
    contexts[i].TryCancel();
    held[i]->Finish();
  }
  Eventually([&] { return OpenRequests() == 0; }, "room again");
}

TEST_F(ServerTest, QueuedPromptTokensAreBounded) {
  options_.limits.max_queued_prompt_tokens = 100;
  StartServing({.behaviour = Behaviour::kHoldQueued});
  grpc::ClientContext held_context;
  auto held =
      generation_->GenerateStream(&held_context, TextStreamRequest(std::string(90, 'x'), 1));
  Eventually([&] { return engine_->submitted() == 1; }, "the first");
  const grpc::Status status = Call(*generation_, TextRequest(std::string(90, 'y'), 1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(status)->violations(0).subject(),
            "queued_prompt_tokens");
  EXPECT_EQ(engine_->submitted(), 1);
  held_context.TryCancel();
  held->Finish();
}

TEST_F(ServerTest, ATenMegabytePromptIsRefusedByItsField) {
  StartServing();
  const grpc::Status status = Call(*generation_, TextRequest(std::string(10 << 20, 'x'), 1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations(0).field(), "text");
  EXPECT_TRUE(Call(*generation_, TextRequest("x", 1)).ok());
}

TEST_F(ServerTest, AMessageOverTheLimitIsRefusedAndTheConnectionLives) {
  options_.limits.max_request_bytes = 1 << 20;
  StartServing();
  const grpc::Status status = Call(*generation_, TextRequest(std::string(2 << 20, 'x'), 1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Call(*generation_, TextRequest("x", 1)).ok());
}

// Sixteen kilobytes on the wire, sixteen megabytes in memory.
TEST_F(ServerTest, ACompressedMessageIsMeasuredUnpacked) {
  options_.limits.max_request_bytes = 1 << 20;
  StartServing();
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  const grpc::Status status =
      Call(*generation_, TextRequest(std::string(16 << 20, 'x'), 1), &context);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(engine_->submitted(), 0);
  EXPECT_TRUE(Call(*generation_, TextRequest("x", 1)).ok());
}

// The generated class refuses to send it, so the bytes are made by hand.
TEST_F(ServerTest, TextThatIsNotUtf8IsRefused) {
  StartServing();
  const std::string wire = std::string("\x12\x03", 2) + "a\xff\xfe";  // field 2, three bytes
  grpc::Slice slice(wire);
  grpc::ByteBuffer request(&slice, 1);
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call =
      stub.PrepareUnaryCall(&context, "/nibble.v1.GenerationService/Generate", request, &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find("UTF-8"), std::string::npos);
  EXPECT_EQ(engine_->submitted(), 0);
  EXPECT_TRUE(Call(*generation_, TextRequest("x", 1)).ok());
}

// gRPC 1.51 may close the connection they came on; never another one.
TEST_F(ServerTest, HeadersOverTheLimitAreRefused) {
  StartServing();
  auto other = v1::GenerationService::NewStub(Opened(Connect()));
  ASSERT_TRUE(Call(*other, TextRequest("x", 1)).ok());
  grpc::ClientContext context;
  context.AddMetadata("x-large", std::string(20 << 10, 'x'));
  EXPECT_FALSE(Call(*generation_, TextRequest("x", 1), &context).ok());
  EXPECT_TRUE(Call(*other, TextRequest("x", 1)).ok());
  EXPECT_EQ(engine_->submitted(), 2);
}

TEST_F(ServerTest, APromptWithoutATemplateIsToldSo) {
  StartServing({.chat_template = false});
  v1::GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  const grpc::Status status = Call(*generation_, request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations(0).field(), "chat");
}

TEST_F(ServerTest, NoLogLineHoldsWhatAUserWrote) {
  StartServing();
  const std::string secret = "hunter2hunter2";
  Call(*generation_, TextRequest(secret, 5));
  v1::GenerateRequest request = TextRequest(secret, 5);
  request.mutable_stopping()->add_stop(std::string(20, 'z') + std::string(300, 'q'));
  request.set_cache_salt("salty");
  Call(*generation_, request);
  for (int i = 0; i < 2; ++i) request.mutable_chat()->add_messages()->set_role(secret);
  Call(*generation_, request);
  Eventually([&] { return LogHas("request_finished"); }, "log lines");
  for (const char* text : {"hunter2", "zzz", "qqq", "salty"}) EXPECT_FALSE(LogHas(text)) << text;
}

// Many at once against a small limit: each is answered or refused, and all places come back.
TEST_F(ServerTest, ABurstIsAnsweredOrRefusedAndLeavesNothingBehind) {
  options_.limits.max_open_requests = 4;
  StartServing();
  std::atomic<int> good{0};
  std::atomic<int> refused{0};
  std::atomic<int> other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      auto stub = v1::GenerationService::NewStub(Opened(Connect()));
      for (int i = 0; i < 20; ++i) {
        const grpc::Status status = Call(*stub, TextRequest("abc", 4));
        (status.ok()                                                   ? good
         : status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED ? refused
                                                                       : other)++;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(other, 0);
  EXPECT_EQ(good + refused, 160);
  EXPECT_GT(good, 0);
  const std::string scrape = Scrape();
  EXPECT_EQ(SumOf(scrape, "nibble_requests_started_total"), 160);
  EXPECT_EQ(SumOf(scrape, "nibble_requests_finished_total"), 160);
  EXPECT_EQ(SumOf(scrape, "nibble_admission_rejections_total"), refused);
  Eventually([&] { return OpenRequests() == 0; }, "all places back");
}

}  // namespace
}  // namespace nibble

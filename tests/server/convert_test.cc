#include "server/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/engine.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/refusal.h"

namespace nibble {
namespace {

google::rpc::Status Rich(const WireStatus& wire) {
  google::rpc::Status rich;
  EXPECT_TRUE(rich.ParseFromString(wire.status.error_details()));
  return rich;
}

template <typename Detail>
Detail Only(const google::rpc::Status& rich) {
  Detail detail;
  for (const auto& any : rich.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  ADD_FAILURE() << "no " << Detail::descriptor()->full_name();
  return detail;
}

std::string TrailerOf(const WireStatus& wire, const std::string& key) {
  for (const auto& [k, v] : wire.trailers) {
    if (k == key) return v;
  }
  return "";
}

TEST(ConvertTest, AbsentFieldsKeepTheEnginesDefaults) {
  v1::GenerateRequest wire;
  wire.set_text("x");
  const auto request = ToEngine(std::move(wire));
  ASSERT_TRUE(request.ok());
  const GenerateRequest plain;
  EXPECT_EQ(request->sampling.temperature, plain.sampling.temperature);
  EXPECT_EQ(request->sampling.top_p, plain.sampling.top_p);
  EXPECT_EQ(request->sampling.repetition_penalty, plain.sampling.repetition_penalty);
  EXPECT_FALSE(request->sampling.seed.has_value());
  EXPECT_FALSE(request->stopping.max_tokens.has_value());
  EXPECT_EQ(request->response.logprobs, -1);
  EXPECT_EQ(request->response.prompt_logprobs, -1);
  EXPECT_FALSE(request->time_limit.has_value());
}

TEST(ConvertTest, ZeroIsAValueWhereItIsSent) {
  v1::GenerateStreamRequest wire;
  wire.set_text("x");
  wire.mutable_sampling()->set_temperature(0);
  wire.mutable_sampling()->set_seed(0);
  wire.mutable_stopping()->set_max_tokens(0);
  wire.mutable_response()->set_logprobs(0);
  const auto request = ToEngine(std::move(wire));
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->sampling.temperature, 0);
  EXPECT_EQ(request->sampling.seed, 0u);
  EXPECT_EQ(request->stopping.max_tokens, 0);
  EXPECT_EQ(request->response.logprobs, 0);
}

TEST(ConvertTest, EveryFieldArrives) {
  v1::GenerateRequest wire;
  wire.mutable_token_ids()->add_ids(5);
  auto* sampling = wire.mutable_sampling();
  sampling->set_top_k(3);
  sampling->set_min_p(0.25f);
  sampling->set_presence_penalty(-1);
  sampling->set_frequency_penalty(2);
  (*sampling->mutable_logit_bias())[9] = 1.5f;
  (*sampling->mutable_logit_bias())[2] = -3;
  sampling->add_allowed_token_ids(2);
  auto* stopping = wire.mutable_stopping();
  stopping->set_min_tokens(4);
  stopping->add_stop("end");
  stopping->add_stop_token_ids(7);
  stopping->set_ignore_eos(true);
  stopping->set_include_stop(true);
  wire.mutable_response()->set_prompt_logprobs(2);
  wire.mutable_response()->set_echo(true);
  wire.set_priority(-5);
  wire.set_cache_salt("tenant");
  wire.set_time_limit_seconds(1.5);
  const auto request = ToEngine(std::move(wire));
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(std::get<TokenPrompt>(request->prompt).ids, std::vector<int32_t>{5});
  EXPECT_EQ(request->sampling.top_k, 3);
  EXPECT_EQ(request->sampling.min_p, 0.25f);
  EXPECT_EQ(request->sampling.presence_penalty, -1);
  EXPECT_EQ(request->sampling.frequency_penalty, 2);
  // In order of ids: the wire's map has none, and equal requests must be equal.
  const std::vector<std::pair<int32_t, float>> bias = {{2, -3.0f}, {9, 1.5f}};
  EXPECT_EQ(request->sampling.logit_bias, bias);
  EXPECT_EQ(request->sampling.allowed_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(request->stopping.min_tokens, 4);
  EXPECT_EQ(request->stopping.stop, std::vector<std::string>{"end"});
  EXPECT_EQ(request->stopping.stop_token_ids, std::vector<int32_t>{7});
  EXPECT_TRUE(request->stopping.ignore_eos);
  EXPECT_TRUE(request->stopping.include_stop);
  EXPECT_EQ(request->response.prompt_logprobs, 2);
  EXPECT_TRUE(request->response.echo);
  EXPECT_EQ(request->priority, -5);
  EXPECT_EQ(request->cache_salt, "tenant");
  EXPECT_EQ(request->time_limit, std::chrono::milliseconds(1500));

  v1::EffectiveParams effective;
  FillEffective(*request, &effective);
  EXPECT_EQ(effective.sampling().logit_bias().at(9), 1.5f);
  EXPECT_EQ(effective.stopping().stop(0), "end");
  EXPECT_EQ(effective.response().prompt_logprobs(), 2);
  EXPECT_FALSE(effective.response().has_logprobs());
  EXPECT_EQ(effective.time_limit_seconds(), 1.5);
}

TEST(ConvertTest, WhatOnlyTheWireCanGetWrongNamesItsField) {
  const double kBadSeconds[] = {0, -1, 1e9, std::nan(""), std::numeric_limits<double>::infinity()};
  for (const double seconds : kBadSeconds) {
    v1::GenerateRequest wire;
    wire.set_text("x");
    wire.set_time_limit_seconds(seconds);
    EXPECT_EQ(PayloadOf(ToEngine(std::move(wire)).status(), kFieldPayload), "time_limit_seconds")
        << seconds;
  }
  for (const int32_t logprobs : {-1, 21, std::numeric_limits<int32_t>::min()}) {
    v1::GenerateRequest wire;
    wire.set_text("x");
    wire.mutable_response()->set_logprobs(logprobs);
    EXPECT_EQ(PayloadOf(ToEngine(std::move(wire)).status(), kFieldPayload), "response.logprobs")
        << logprobs;
  }
  for (const int32_t interval : {0, -1, 1025}) {
    v1::GenerateStreamRequest wire;
    wire.mutable_response()->set_delta_interval_tokens(interval);
    EXPECT_EQ(PayloadOf(StreamParamsOf(wire).status(), kFieldPayload),
              "response.delta_interval_tokens")
        << interval;
  }
  EXPECT_EQ(PayloadOf(ToEngine(v1::GenerateRequest()).status(), kFieldPayload), "prompt");
}

TEST(ConvertTest, PromptTokensAreGuessedWithoutTokenizing) {
  v1::GenerateRequest wire;
  EXPECT_EQ(GuessPromptTokens(wire), 0);
  wire.set_text(std::string(400, 'x'));
  EXPECT_EQ(GuessPromptTokens(wire), 101);
  wire.mutable_token_ids()->add_ids(1);
  EXPECT_EQ(GuessPromptTokens(wire), 1);
  wire.mutable_chat()->add_messages()->set_content(std::string(40, 'x'));
  EXPECT_EQ(GuessPromptTokens(wire), 14);
}

TEST(ConvertTest, ABadFieldBecomesABadRequest) {
  const WireStatus wire =
      ToWire(FieldError("sampling.top_p", "is 1.4, needs above 0 to 1"), "id-1");
  EXPECT_EQ(wire.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = Only<google::rpc::BadRequest>(Rich(wire));
  ASSERT_EQ(bad.field_violations_size(), 1);
  EXPECT_EQ(bad.field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(bad.field_violations(0).description(), "sampling.top_p: is 1.4, needs above 0 to 1");
  EXPECT_EQ(TrailerOf(wire, "x-request-id"), "id-1");
  EXPECT_EQ(TrailerOf(wire, "grpc-retry-pushback-ms"), "") << "retrying does not mend a bad field";
}

TEST(ConvertTest, AFullQueueSaysWhatIsFullAndWhenToComeBack) {
  const WireStatus wire = ToWire(QuotaFull("open_requests", "5 of 5"), "id");
  const google::rpc::Status rich = Rich(wire);
  EXPECT_EQ(rich.code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Only<google::rpc::QuotaFailure>(rich).violations(0).subject(), "open_requests");
  EXPECT_EQ(Only<google::rpc::RetryInfo>(rich).retry_delay().seconds(), 1);
  EXPECT_EQ(TrailerOf(wire, "grpc-retry-pushback-ms"), "1000");
}

// Its request was fine and nothing was full: to retry is no cure for a client that does not read.
TEST(ConvertTest, ASlowClientIsToldSoAndNotToComeBack) {
  absl::Status slow = absl::ResourceExhaustedError("client reads too slowly");
  slow.SetPayload(kReasonPayload, absl::Cord(kSlowClient));
  const WireStatus wire = ToWire(slow, "id");
  const google::rpc::Status rich = Rich(wire);
  EXPECT_EQ(rich.code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_EQ(rich.details_size(), 1);
  EXPECT_EQ(Only<google::rpc::ErrorInfo>(rich).reason(), "SLOW_CLIENT");
  EXPECT_EQ(TrailerOf(wire, "grpc-retry-pushback-ms"), "");
}

TEST(ConvertTest, UnavailableAlwaysSaysWhenToComeBack) {
  EXPECT_EQ(Only<google::rpc::RetryInfo>(
                Rich(ToWire(UnavailableFor("loading", "x", std::chrono::milliseconds(2500)), "")))
                .retry_delay()
                .nanos(),
            500'000'000);
  // The engine's own refusals know no retry time.
  EXPECT_TRUE(Only<google::rpc::RetryInfo>(Rich(ToWire(absl::UnavailableError("draining"), "")))
                  .has_retry_delay());
}

TEST(ConvertTest, ADeadlineNamesItsStage) {
  for (const Stage stage : {Stage::kQueued, Stage::kPrefill, Stage::kDecode}) {
    const auto info = Only<google::rpc::ErrorInfo>(
        Rich(ToWire(absl::DeadlineExceededError("late"), "id", stage)));
    EXPECT_EQ(info.metadata().at("stage"), StageName(stage));
  }
}

// A leaked path or address was the first step into other servers.
TEST(ConvertTest, InternalErrorsTellOnlyTheRequestId) {
  for (const absl::Status& status :
       {absl::InternalError("/secret/path: cudaErrorIllegalAddress at 0x7f"),
        absl::UnknownError("/secret/path"), absl::DataLossError("/secret/path")}) {
    const WireStatus wire = ToWire(status, "id-7");
    EXPECT_EQ(wire.status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_EQ(wire.status.error_message().find("secret"), std::string::npos);
    EXPECT_EQ(wire.status.error_details().find("secret"), std::string::npos);
    EXPECT_NE(wire.status.error_message().find("id-7"), std::string::npos);
  }
}

TEST(ConvertTest, EveryCodeKeepsItsNumberExceptTheUnspeakable) {
  for (int code = 1; code <= 16; ++code) {
    const WireStatus wire = ToWire(absl::Status(static_cast<absl::StatusCode>(code), "m"), "id");
    EXPECT_NE(wire.status.error_code(), grpc::StatusCode::UNKNOWN) << code;
    if (code != 2 && code != 13 && code != 15) {
      EXPECT_EQ(static_cast<int>(wire.status.error_code()), code);
    }
  }
  EXPECT_TRUE(ToWire(absl::OkStatus(), "id").status.ok());
  EXPECT_EQ(CodeName(grpc::StatusCode::UNAUTHENTICATED), "UNAUTHENTICATED");
  EXPECT_EQ(CodeName(grpc::StatusCode::OK), "OK");
}

// Clients refuse trailers of more than 8 KiB, and would then report an error of their own.
TEST(ConvertTest, LongMessagesAreCutBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\xe2\x82\xac";  // three bytes each
  const WireStatus wire = ToWire(absl::InvalidArgumentError(text), "id");
  EXPECT_LE(wire.status.error_message().size(), 1024u);
  EXPECT_EQ(wire.status.error_message().size() % 3, 0u);
  EXPECT_EQ(Shortened("abc", 2), "ab");
  EXPECT_EQ(Shortened("\xe2\x82\xac", 2), "");
}

TEST(ConvertTest, DeltasAppendAndSkipTheFirstPromptPosition) {
  v1::Delta wire;
  Delta first;
  first.text = "ab";
  first.token_ids = {1, 2};
  first.logprobs = {{.id = 1, .logprob = -1},
                    {.id = 2, .logprob = -2, .top = {{2, -2.0f}, {3, -4.0f}}}};
  first.prompt_logprobs = {std::nullopt, Logprob{.id = 8, .logprob = -3}};
  AppendDelta(first, &wire);
  Delta second;
  second.text = "c";
  second.token_ids = {3};
  AppendDelta(second, &wire);
  EXPECT_EQ(wire.text(), "abc");
  EXPECT_EQ(wire.token_ids_size(), 3);
  EXPECT_EQ(wire.logprobs(1).top(1).token_id(), 3);
  ASSERT_EQ(wire.prompt_logprobs_size(), 1);
  EXPECT_EQ(wire.prompt_logprobs(0).token_id(), 8);
}

TEST(ConvertTest, FinishedTellsWhatMatched) {
  Outcome outcome;
  outcome.finish_reason = FinishReason::kStopSequence;
  outcome.matched_stop = "END";
  outcome.usage = {.prompt_tokens = 3, .cached_tokens = 2, .completion_tokens = 5};
  outcome.timings.first_token = std::chrono::milliseconds(250);
  outcome.timings.preemptions = 2;
  v1::Finished wire;
  FillFinished(outcome, &wire);
  EXPECT_EQ(wire.finish_reason(), v1::FINISH_REASON_STOP_SEQUENCE);
  EXPECT_EQ(wire.matched_stop(), "END");
  EXPECT_FALSE(wire.has_matched_token_id());
  EXPECT_EQ(wire.usage().cached_tokens(), 2);
  EXPECT_EQ(wire.timings().first_token_seconds(), 0.25);
  EXPECT_EQ(wire.timings().preemptions(), 2);
  EXPECT_EQ(FinishReasonName(FinishReason::kDrained), "drained");
}

}  // namespace
}  // namespace nibble

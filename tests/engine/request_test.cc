#include "engine/request.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "engine/engine.h"

namespace nibble {
namespace {

constexpr int32_t kVocab = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct BadCase {
  std::string field;
  std::string found;  // part of the message
  std::function<void(GenerateRequest&)> spoil;
};

GenerateRequest Good() {
  GenerateRequest request;
  request.prompt = TextPrompt{"hello"};
  return request;
}

std::string PayloadOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFieldPayload);
  return payload ? std::string(*payload) : "";
}

TEST(RequestTest, DefaultsAreValid) { EXPECT_TRUE(Validate(Good(), kVocab).ok()); }

TEST(RequestTest, EveryBoundItselfIsAllowed) {
  GenerateRequest r = Good();
  r.sampling.temperature = 100;
  r.sampling.top_k = INT32_MAX;
  r.sampling.top_p = 1e-6f;
  r.sampling.min_p = 1;
  r.sampling.repetition_penalty = 10;
  r.sampling.presence_penalty = -10;
  r.sampling.frequency_penalty = 10;
  r.sampling.logit_bias = {{0, -100}, {kVocab - 1, 100}};
  r.sampling.allowed_token_ids = {0, kVocab - 1};
  r.stopping.max_tokens = 0;
  r.stopping.stop.assign(kMaxStopStrings, std::string(kMaxStopBytes, 'x'));
  r.stopping.stop_token_ids.assign(kMaxStopTokenIds, 1);
  r.response.logprobs = kMaxLogprobs;
  r.response.prompt_logprobs = 0;
  r.priority = -100;
  r.cache_salt.assign(kMaxCacheSaltBytes, 's');
  r.time_limit = std::chrono::nanoseconds(1);
  EXPECT_TRUE(Validate(r, kVocab).ok()) << Validate(r, kVocab);
  r.sampling.repetition_penalty = kMinRepetitionPenalty;
  EXPECT_TRUE(Validate(r, kVocab).ok()) << Validate(r, kVocab);
}

TEST(RequestTest, EveryBadValueIsRefusedByFieldAndValue) {
  const std::vector<BadCase> cases = {
      {"sampling.temperature", "nan", [](auto& r) { r.sampling.temperature = kNan; }},
      {"sampling.temperature", "inf", [](auto& r) { r.sampling.temperature = kInf; }},
      {"sampling.temperature", "-0.5", [](auto& r) { r.sampling.temperature = -0.5; }},
      {"sampling.top_k", "-1", [](auto& r) { r.sampling.top_k = -1; }},
      {"sampling.top_p", "1.4", [](auto& r) { r.sampling.top_p = 1.4; }},
      {"sampling.top_p", "is 0", [](auto& r) { r.sampling.top_p = 0; }},
      {"sampling.top_p", "nan", [](auto& r) { r.sampling.top_p = kNan; }},
      {"sampling.min_p", "2", [](auto& r) { r.sampling.min_p = 2; }},
      {"sampling.min_p", "nan", [](auto& r) { r.sampling.min_p = kNan; }},
      {"sampling.repetition_penalty", "is 0", [](auto& r) { r.sampling.repetition_penalty = 0; }},
      {"sampling.repetition_penalty", "1e-38, needed 0.01 to 10",
       [](auto& r) { r.sampling.repetition_penalty = 1e-38f; }},
      {"sampling.repetition_penalty", "nan", [](auto& r) { r.sampling.repetition_penalty = kNan; }},
      {"sampling.presence_penalty", "11", [](auto& r) { r.sampling.presence_penalty = 11; }},
      {"sampling.frequency_penalty", "-inf", [](auto& r) { r.sampling.frequency_penalty = -kInf; }},
      {"sampling.logit_bias[3]", "nan", [](auto& r) { r.sampling.logit_bias = {{3, kNan}}; }},
      {"sampling.logit_bias[100]", "id 100", [](auto& r) { r.sampling.logit_bias = {{100, 1}}; }},
      {"sampling.logit_bias", "7 twice",
       [](auto& r) { r.sampling.logit_bias = {{7, 1}, {2, 0}, {7, 2}}; }},
      {"sampling.logit_bias", "1025",
       [](auto& r) { r.sampling.logit_bias.resize(kMaxLogitBias + 1); }},
      {"sampling.allowed_token_ids[1]", "id -1",
       [](auto& r) { r.sampling.allowed_token_ids = {1, -1}; }},
      {"sampling.allowed_token_ids", "65537",
       [](auto& r) { r.sampling.allowed_token_ids.resize(kMaxAllowedIds + 1); }},
      {"stopping.max_tokens", "-1", [](auto& r) { r.stopping.max_tokens = -1; }},
      {"stopping.min_tokens", "-1", [](auto& r) { r.stopping.min_tokens = -1; }},
      {"stopping.min_tokens", "0 to 4",
       [](auto& r) { r.stopping.max_tokens = 4, r.stopping.min_tokens = 5; }},
      {"stopping.stop[2]", "0 bytes", [](auto& r) { r.stopping.stop = {"a", "b", ""}; }},
      {"stopping.stop[0]", "257", [](auto& r) { r.stopping.stop = {std::string(257, 'x')}; }},
      {"stopping.stop", "17", [](auto& r) { r.stopping.stop.assign(17, "x"); }},
      {"stopping.stop_token_ids[0]", "id 100", [](auto& r) { r.stopping.stop_token_ids = {100}; }},
      {"stopping.stop_token_ids", "65", [](auto& r) { r.stopping.stop_token_ids.resize(65); }},
      {"response.logprobs", "21", [](auto& r) { r.response.logprobs = 21; }},
      {"response.prompt_logprobs", "-2", [](auto& r) { r.response.prompt_logprobs = -2; }},
      {"priority", "101", [](auto& r) { r.priority = 101; }},
      {"cache_salt", "257", [](auto& r) { r.cache_salt.assign(257, 'x'); }},
      {"time_limit_seconds", "is 0", [](auto& r) { r.time_limit = Duration(0); }},
      {"token_ids", "empty", [](auto& r) { r.prompt = TokenPrompt{}; }},
      {"token_ids.ids[1]", "id -7", [](auto& r) { r.prompt = TokenPrompt{{1, -7}}; }},
      {"token_ids.ids[0]", "id 2147483647", [](auto& r) { r.prompt = TokenPrompt{{INT32_MAX}}; }},
      {"chat", "empty", [](auto& r) { r.prompt = ChatPrompt{}; }},
      {"chat.messages[1].role", "empty",
       [](auto& r) { r.prompt = ChatPrompt{{{"user", "hi"}, {"", "hi"}}}; }},
      {"chat.messages", "4097",
       [](auto& r) { r.prompt = ChatPrompt{std::vector<ChatMessage>(4097)}; }},
  };
  for (const BadCase& bad : cases) {
    GenerateRequest request = Good();
    bad.spoil(request);
    const absl::Status status = Validate(request, kVocab);
    SCOPED_TRACE(status.ToString());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.field;
    EXPECT_EQ(PayloadOf(status), bad.field);
    EXPECT_TRUE(absl::StrContains(status.message(), bad.found)) << bad.found;
    EXPECT_TRUE(absl::StartsWith(status.message(), bad.field));
  }
}

TEST(RequestTest, FieldErrorNamesTheFieldInTextAndPayload) {
  const absl::Status status = FieldError("sampling.top_p", "is 1.4");
  EXPECT_EQ(status.message(), "sampling.top_p: is 1.4");
  EXPECT_EQ(PayloadOf(status), "sampling.top_p");
}

}  // namespace
}  // namespace nibble

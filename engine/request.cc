#include "engine/request.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"

namespace nibble {

absl::Status FieldError(absl::string_view field, absl::string_view message) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", message));
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

absl::string_view StageName(Stage stage) {
  switch (stage) {
    case Stage::kQueued:
      return "queued";
    case Stage::kPrefill:
      return "prefill";
    case Stage::kDecode:
      return "decode";
  }
  return "unknown";
}

namespace {

// A NaN is in no range. `lowest` itself is allowed unless `above`.
absl::Status InRange(absl::string_view field, double value, double lowest, double highest,
                     bool above = false) {
  const bool high_enough = above ? value > lowest : value >= lowest;
  if (high_enough && value <= highest) return absl::OkStatus();
  return FieldError(field, absl::StrCat("is ", value, ", needed ", above ? "above " : "", lowest,
                                        above ? " and at most " : " to ", highest));
}

absl::Status AtMost(absl::string_view field, size_t count, int32_t most, absl::string_view noun) {
  if (count <= static_cast<size_t>(most)) return absl::OkStatus();
  return FieldError(field, absl::StrCat("has ", count, " ", noun, ", needed at most ", most));
}

absl::Status IsToken(absl::string_view field, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return FieldError(field, absl::StrCat("is token id ", id, ", needed 0 to ", vocab_size - 1));
}

absl::Status AreTokens(absl::string_view field, const std::vector<int32_t>& ids,
                       int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;  // no name is made for the good ones
    return IsToken(absl::StrCat(field, "[", i, "]"), ids[i], vocab_size);
  }
  return absl::OkStatus();
}

absl::Status ValidateLogitBias(const SamplingParams& sampling, int32_t vocab_size) {
  const auto& bias = sampling.logit_bias;
  NIBBLE_RETURN_IF_ERROR(AtMost("sampling.logit_bias", bias.size(), kMaxLogitBias, "entries"));
  std::vector<int32_t> ids;
  for (const auto& [id, value] : bias) {
    const std::string field = absl::StrCat("sampling.logit_bias[", id, "]");
    NIBBLE_RETURN_IF_ERROR(IsToken(field, id, vocab_size));
    NIBBLE_RETURN_IF_ERROR(InRange(field, value, -100, 100));
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return absl::OkStatus();
  return FieldError("sampling.logit_bias", absl::StrCat("has token id ", *twice, " twice"));
}

absl::Status ValidateSampling(const SamplingParams& s, int32_t vocab_size) {
  NIBBLE_RETURN_IF_ERROR(InRange("sampling.temperature", s.temperature, 0, 100));
  NIBBLE_RETURN_IF_ERROR(InRange("sampling.top_k", s.top_k, 0, INT32_MAX));
  NIBBLE_RETURN_IF_ERROR(InRange("sampling.top_p", s.top_p, 0, 1, /*above=*/true));
  NIBBLE_RETURN_IF_ERROR(InRange("sampling.min_p", s.min_p, 0, 1));
  NIBBLE_RETURN_IF_ERROR(
      InRange("sampling.repetition_penalty", s.repetition_penalty, kMinRepetitionPenalty, 10));
  NIBBLE_RETURN_IF_ERROR(InRange("sampling.presence_penalty", s.presence_penalty, -10, 10));
  NIBBLE_RETURN_IF_ERROR(InRange("sampling.frequency_penalty", s.frequency_penalty, -10, 10));
  NIBBLE_RETURN_IF_ERROR(ValidateLogitBias(s, vocab_size));
  NIBBLE_RETURN_IF_ERROR(
      AtMost("sampling.allowed_token_ids", s.allowed_token_ids.size(), kMaxAllowedIds, "ids"));
  return AreTokens("sampling.allowed_token_ids", s.allowed_token_ids, vocab_size);
}

absl::Status ValidateStopping(const StoppingParams& s, int32_t vocab_size) {
  const int32_t max_tokens = s.max_tokens.value_or(INT32_MAX);
  NIBBLE_RETURN_IF_ERROR(InRange("stopping.max_tokens", max_tokens, 0, INT32_MAX));
  NIBBLE_RETURN_IF_ERROR(InRange("stopping.min_tokens", s.min_tokens, 0, max_tokens));
  NIBBLE_RETURN_IF_ERROR(AtMost("stopping.stop", s.stop.size(), kMaxStopStrings, "strings"));
  for (size_t i = 0; i < s.stop.size(); ++i) {
    if (!s.stop[i].empty() && s.stop[i].size() <= kMaxStopBytes) continue;
    return FieldError(absl::StrCat("stopping.stop[", i, "]"),
                      absl::StrCat("is ", s.stop[i].size(), " bytes, needed 1 to ", kMaxStopBytes));
  }
  NIBBLE_RETURN_IF_ERROR(
      AtMost("stopping.stop_token_ids", s.stop_token_ids.size(), kMaxStopTokenIds, "ids"));
  return AreTokens("stopping.stop_token_ids", s.stop_token_ids, vocab_size);
}

absl::Status ValidatePrompt(const Prompt& prompt, int32_t vocab_size) {
  if (const auto* tokens = std::get_if<TokenPrompt>(&prompt)) {
    if (tokens->ids.empty()) return FieldError("token_ids", "is empty, needed at least one id");
    return AreTokens("token_ids.ids", tokens->ids, vocab_size);
  }
  const auto* chat = std::get_if<ChatPrompt>(&prompt);
  if (chat == nullptr) return absl::OkStatus();
  if (chat->messages.empty()) return FieldError("chat", "is empty, needed at least one message");
  NIBBLE_RETURN_IF_ERROR(
      AtMost("chat.messages", chat->messages.size(), kMaxChatMessages, "messages"));
  for (size_t i = 0; i < chat->messages.size(); ++i) {
    if (!chat->messages[i].role.empty()) continue;
    return FieldError(absl::StrCat("chat.messages[", i, "].role"),
                      "is empty, needed a role such as \"user\"");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const GenerateRequest& request, int32_t vocab_size) {
  NIBBLE_RETURN_IF_ERROR(ValidatePrompt(request.prompt, vocab_size));
  NIBBLE_RETURN_IF_ERROR(ValidateSampling(request.sampling, vocab_size));
  NIBBLE_RETURN_IF_ERROR(ValidateStopping(request.stopping, vocab_size));
  const ResponseParams& response = request.response;
  NIBBLE_RETURN_IF_ERROR(InRange("response.logprobs", response.logprobs, -1, kMaxLogprobs));
  NIBBLE_RETURN_IF_ERROR(
      InRange("response.prompt_logprobs", response.prompt_logprobs, -1, kMaxLogprobs));
  NIBBLE_RETURN_IF_ERROR(InRange("priority", request.priority, -100, 100));
  NIBBLE_RETURN_IF_ERROR(
      AtMost("cache_salt", request.cache_salt.size(), kMaxCacheSaltBytes, "bytes"));
  if (request.time_limit.has_value() && *request.time_limit <= Duration::zero()) {
    return FieldError("time_limit_seconds",
                      absl::StrCat("is ", Seconds(*request.time_limit), ", needed above 0"));
  }
  return absl::OkStatus();
}

}  // namespace nibble

#include "server/convert.h"

#include <google/protobuf/any.pb.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/refusal.h"

namespace nibble {
namespace {

constexpr char kErrorDomain[] = "nibble";
constexpr size_t kMaxMessageBytes =
    1024;  // clients refuse more than 8 KiB of trailers, all together
constexpr int64_t kBytesPerToken = 4;
constexpr int64_t kTokensPerMessage = 4;  // role and borders, in most templates

// Presence keeps the engine's default where the wire says nothing.
template <typename To, typename From>
void SetIf(bool has, From value, To* to) {
  if (has) *to = static_cast<To>(value);
}

SamplingParams ToEngine(const v1::SamplingParams& wire) {
  SamplingParams params;
  SetIf(wire.has_temperature(), wire.temperature(), &params.temperature);
  SetIf(wire.has_top_k(), wire.top_k(), &params.top_k);
  SetIf(wire.has_top_p(), wire.top_p(), &params.top_p);
  SetIf(wire.has_min_p(), wire.min_p(), &params.min_p);
  SetIf(wire.has_repetition_penalty(), wire.repetition_penalty(), &params.repetition_penalty);
  SetIf(wire.has_presence_penalty(), wire.presence_penalty(), &params.presence_penalty);
  SetIf(wire.has_frequency_penalty(), wire.frequency_penalty(), &params.frequency_penalty);
  if (wire.has_seed()) params.seed = wire.seed();
  params.logit_bias.assign(wire.logit_bias().begin(), wire.logit_bias().end());
  std::sort(params.logit_bias.begin(),
            params.logit_bias.end());  // a proto map has no order of its own
  params.allowed_token_ids.assign(wire.allowed_token_ids().begin(), wire.allowed_token_ids().end());
  return params;
}

StoppingParams ToEngine(const v1::StoppingParams& wire) {
  StoppingParams params;
  if (wire.has_max_tokens()) params.max_tokens = wire.max_tokens();
  SetIf(wire.has_min_tokens(), wire.min_tokens(), &params.min_tokens);
  params.stop.assign(wire.stop().begin(), wire.stop().end());
  params.stop_token_ids.assign(wire.stop_token_ids().begin(), wire.stop_token_ids().end());
  SetIf(wire.has_ignore_eos(), wire.ignore_eos(), &params.ignore_eos);
  SetIf(wire.has_include_stop(), wire.include_stop(), &params.include_stop);
  return params;
}

// The engine says "none" with -1; on the wire that is absence, and -1 is a mistake.
absl::Status CheckLogprobs(absl::string_view field, bool has, int32_t value) {
  if (!has || (value >= 0 && value <= kMaxLogprobs)) return absl::OkStatus();
  return FieldError(field, absl::StrCat("is ", value, ", needs 0 to ", kMaxLogprobs));
}

absl::StatusOr<ResponseParams> ToEngine(const v1::ResponseParams& wire) {
  NIBBLE_RETURN_IF_ERROR(CheckLogprobs("response.logprobs", wire.has_logprobs(), wire.logprobs()));
  NIBBLE_RETURN_IF_ERROR(CheckLogprobs("response.prompt_logprobs", wire.has_prompt_logprobs(),
                                       wire.prompt_logprobs()));
  ResponseParams params;
  SetIf(wire.has_logprobs(), wire.logprobs(), &params.logprobs);
  SetIf(wire.has_prompt_logprobs(), wire.prompt_logprobs(), &params.prompt_logprobs);
  SetIf(wire.has_echo(), wire.echo(), &params.echo);
  return params;
}

template <typename Wire>
absl::StatusOr<Prompt> PromptOf(Wire&& wire) {
  switch (wire.prompt_case()) {
    case std::decay_t<Wire>::kText:
      return TextPrompt{.text = std::move(*wire.mutable_text())};
    case std::decay_t<Wire>::kTokenIds:
      return TokenPrompt{.ids = {wire.token_ids().ids().begin(), wire.token_ids().ids().end()}};
    case std::decay_t<Wire>::kChat: {
      NIBBLE_ASSIGN_OR_RETURN(std::vector<ChatMessage> messages, nibble::ToEngine(wire.chat()));
      return ChatPrompt{.messages = std::move(messages)};
    }
    default:
      return FieldError("prompt", "is missing, needs one of text, token_ids, chat");
  }
}

// GenerateRequest and GenerateStreamRequest have the same fields.
template <typename Wire>
absl::StatusOr<GenerateRequest> RequestOf(Wire&& wire) {
  GenerateRequest request;
  NIBBLE_ASSIGN_OR_RETURN(request.prompt, PromptOf(std::forward<Wire>(wire)));
  request.sampling = ToEngine(wire.sampling());
  request.stopping = ToEngine(wire.stopping());
  NIBBLE_ASSIGN_OR_RETURN(request.response, ToEngine(wire.response()));
  request.priority = wire.priority();
  request.cache_salt = std::move(*wire.mutable_cache_salt());
  if (wire.has_time_limit_seconds()) {
    const double seconds = wire.time_limit_seconds();
    if (!(seconds > 0 && seconds <= kMaxTimeLimitSeconds)) {  // also NaN
      return FieldError("time_limit_seconds",
                        absl::StrCat("is ", seconds, ", needs above 0 to ", kMaxTimeLimitSeconds));
    }
    request.time_limit =
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  }
  return request;
}

template <typename Wire>
int64_t GuessTokens(const Wire& wire) {
  switch (wire.prompt_case()) {
    case Wire::kText:
      return static_cast<int64_t>(wire.text().size()) / kBytesPerToken + 1;
    case Wire::kTokenIds:
      return wire.token_ids().ids_size();
    case Wire::kChat: {
      int64_t tokens = 0;
      for (const v1::ChatMessage& message : wire.chat().messages()) {
        tokens +=
            static_cast<int64_t>(message.content().size()) / kBytesPerToken + kTokensPerMessage;
      }
      return tokens;
    }
    default:
      return 0;
  }
}

void FillLogprob(const Logprob& from, v1::TokenLogprob* to) {
  to->set_token_id(from.id);
  to->set_logprob(from.logprob);
  for (const auto& [id, logprob] : from.top) {
    v1::TopLogprob* top = to->add_top();
    top->set_token_id(id);
    top->set_logprob(logprob);
  }
}

template <typename Wire>
void Append(Delta delta, Wire* wire) {
  wire->mutable_text()->append(delta.text);
  wire->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  for (const Logprob& logprob : delta.logprobs) FillLogprob(logprob, wire->add_logprobs());
  for (const std::optional<Logprob>& logprob : delta.prompt_logprobs) {
    if (logprob.has_value()) FillLogprob(*logprob, wire->add_prompt_logprobs());
  }
}

template <typename Wire>
void Finish(const Outcome& outcome, Wire* wire) {
  wire->set_finish_reason(static_cast<v1::FinishReason>(outcome.finish_reason));
  if (outcome.finish_reason == FinishReason::kStopSequence)
    wire->set_matched_stop(outcome.matched_stop);
  if (outcome.matched_token >= 0) wire->set_matched_token_id(outcome.matched_token);
  v1::Usage* usage = wire->mutable_usage();
  usage->set_prompt_tokens(outcome.usage.prompt_tokens);
  usage->set_cached_tokens(outcome.usage.cached_tokens);
  usage->set_completion_tokens(outcome.usage.completion_tokens);
  v1::Timings* timings = wire->mutable_timings();
  timings->set_queue_seconds(Seconds(outcome.timings.queue));
  timings->set_prefill_seconds(Seconds(outcome.timings.prefill));
  timings->set_first_token_seconds(Seconds(outcome.timings.first_token));
  timings->set_decode_seconds(Seconds(outcome.timings.decode));
  timings->set_total_seconds(Seconds(outcome.timings.total));
  timings->set_preemptions(outcome.timings.preemptions);
  timings->set_recomputed_tokens(outcome.timings.recomputed_tokens);
}

// The two enums are the same list, so that the cast in Finish is one.
static_assert(static_cast<int>(FinishReason::kEos) == v1::FINISH_REASON_EOS);
static_assert(static_cast<int>(FinishReason::kStopSequence) == v1::FINISH_REASON_STOP_SEQUENCE);
static_assert(static_cast<int>(FinishReason::kStopToken) == v1::FINISH_REASON_STOP_TOKEN);
static_assert(static_cast<int>(FinishReason::kMaxTokens) == v1::FINISH_REASON_MAX_TOKENS);
static_assert(static_cast<int>(FinishReason::kContextLength) == v1::FINISH_REASON_CONTEXT_LENGTH);
static_assert(static_cast<int>(FinishReason::kDeadline) == v1::FINISH_REASON_DEADLINE);
static_assert(static_cast<int>(FinishReason::kDrained) == v1::FINISH_REASON_DRAINED);

grpc::StatusCode ToGrpcCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kInternal:
      return grpc::StatusCode::INTERNAL;
    default:
      // The other numbers are the same by design (absl/status/status.h).
      return static_cast<grpc::StatusCode>(static_cast<int>(code));
  }
}

google::protobuf::Duration Milliseconds(int64_t ms) {
  google::protobuf::Duration duration;
  duration.set_seconds(ms / 1000);
  duration.set_nanos(static_cast<int32_t>(ms % 1000 * 1'000'000));
  return duration;
}

void AddDetails(const absl::Status& status, Stage stage, google::rpc::Status* wire,
                Trailers* trailers) {
  const std::string field = PayloadOf(status, kFieldPayload);
  if (!field.empty()) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(field);
    violation->set_description(wire->message());
    wire->add_details()->PackFrom(bad);
  }
  if (PayloadOf(status, kReasonPayload) == kSlowClient) {
    google::rpc::ErrorInfo info;
    info.set_reason("SLOW_CLIENT");
    info.set_domain(kErrorDomain);
    wire->add_details()->PackFrom(info);
    return;  // no quota was full, and to come back would not help
  }
  const bool full = status.code() == absl::StatusCode::kResourceExhausted;
  if (full) {
    const std::string quota = PayloadOf(status, kQuotaPayload);
    google::rpc::QuotaFailure failure;
    auto* violation = failure.add_violations();
    violation->set_subject(quota.empty() ? "kv_cache" : quota);
    violation->set_description(wire->message());
    wire->add_details()->PackFrom(failure);
  }
  if (full || status.code() == absl::StatusCode::kUnavailable) {
    int64_t ms = 0;
    if (!absl::SimpleAtoi(PayloadOf(status, kRetryPayload), &ms)) {
      ms = std::chrono::duration_cast<std::chrono::milliseconds>(kRetryWhenFull).count();
    }
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() = Milliseconds(ms);
    wire->add_details()->PackFrom(retry);
    trailers->emplace_back("grpc-retry-pushback-ms", absl::StrCat(ms));
  }
  if (status.code() == absl::StatusCode::kDeadlineExceeded) {
    google::rpc::ErrorInfo info;
    info.set_reason("DEADLINE_EXCEEDED");
    info.set_domain(kErrorDomain);
    (*info.mutable_metadata())["stage"] = std::string(StageName(stage));
    wire->add_details()->PackFrom(info);
  }
}

std::string Fixed(Duration duration) { return absl::StrFormat("%.6f", Seconds(duration)); }

}  // namespace

absl::StatusOr<GenerateRequest> ToEngine(v1::GenerateRequest&& wire) {
  return RequestOf(std::move(wire));
}
absl::StatusOr<GenerateRequest> ToEngine(v1::GenerateStreamRequest&& wire) {
  return RequestOf(std::move(wire));
}

absl::StatusOr<StreamParams> StreamParamsOf(const v1::GenerateStreamRequest& wire) {
  StreamParams params;
  if (wire.response().has_delta_interval_tokens()) {
    params.delta_interval_tokens = wire.response().delta_interval_tokens();
    if (params.delta_interval_tokens < 1 ||
        params.delta_interval_tokens > kMaxDeltaIntervalTokens) {
      return FieldError("response.delta_interval_tokens",
                        absl::StrCat("is ", params.delta_interval_tokens, ", needs 1 to ",
                                     kMaxDeltaIntervalTokens));
    }
  }
  return params;
}

absl::StatusOr<std::vector<ChatMessage>> ToEngine(const v1::ChatMessages& wire) {
  if (wire.messages_size() == 0 || wire.messages_size() > kMaxChatMessages) {
    return FieldError("chat.messages", absl::StrCat("has ", wire.messages_size(),
                                                    " entries, needs 1 to ", kMaxChatMessages));
  }
  std::vector<ChatMessage> messages;
  messages.reserve(wire.messages_size());
  for (const v1::ChatMessage& message : wire.messages()) {
    if (message.role().empty()) {
      return FieldError(absl::StrCat("chat.messages[", messages.size(), "].role"),
                        "is empty, needs a role of the model's template such as user");
    }
    messages.push_back({.role = message.role(), .content = message.content()});
  }
  return messages;
}

int64_t GuessPromptTokens(const v1::GenerateRequest& wire) { return GuessTokens(wire); }
int64_t GuessPromptTokens(const v1::GenerateStreamRequest& wire) { return GuessTokens(wire); }

void FillEffective(const GenerateRequest& from, v1::EffectiveParams* wire) {
  v1::SamplingParams* sampling = wire->mutable_sampling();
  sampling->set_temperature(from.sampling.temperature);
  sampling->set_top_k(from.sampling.top_k);
  sampling->set_top_p(from.sampling.top_p);
  sampling->set_min_p(from.sampling.min_p);
  sampling->set_repetition_penalty(from.sampling.repetition_penalty);
  sampling->set_presence_penalty(from.sampling.presence_penalty);
  sampling->set_frequency_penalty(from.sampling.frequency_penalty);
  if (from.sampling.seed.has_value()) sampling->set_seed(*from.sampling.seed);
  for (const auto& [id, bias] : from.sampling.logit_bias)
    (*sampling->mutable_logit_bias())[id] = bias;
  sampling->mutable_allowed_token_ids()->Add(from.sampling.allowed_token_ids.begin(),
                                             from.sampling.allowed_token_ids.end());
  v1::StoppingParams* stopping = wire->mutable_stopping();
  if (from.stopping.max_tokens.has_value()) stopping->set_max_tokens(*from.stopping.max_tokens);
  stopping->set_min_tokens(from.stopping.min_tokens);
  for (const std::string& stop : from.stopping.stop) stopping->add_stop(stop);
  stopping->mutable_stop_token_ids()->Add(from.stopping.stop_token_ids.begin(),
                                          from.stopping.stop_token_ids.end());
  stopping->set_ignore_eos(from.stopping.ignore_eos);
  stopping->set_include_stop(from.stopping.include_stop);
  v1::ResponseParams* response = wire->mutable_response();
  if (from.response.logprobs >= 0) response->set_logprobs(from.response.logprobs);
  if (from.response.prompt_logprobs >= 0)
    response->set_prompt_logprobs(from.response.prompt_logprobs);
  response->set_echo(from.response.echo);
  wire->set_priority(from.priority);
  if (from.time_limit.has_value()) wire->set_time_limit_seconds(Seconds(*from.time_limit));
}

void FillStarted(const Started& started, absl::string_view request_id, absl::string_view model,
                 v1::Started* wire) {
  wire->set_request_id(request_id.data(), request_id.size());
  wire->set_model(model.data(), model.size());
  FillEffective(started.effective, wire->mutable_effective());
  wire->set_prompt_tokens(started.prompt_tokens);
  wire->set_cached_tokens(started.cached_tokens);
}

void AppendDelta(Delta delta, v1::Delta* wire) { Append(std::move(delta), wire); }
void AppendDelta(Delta delta, v1::GenerateResponse* wire) { Append(std::move(delta), wire); }
void FillFinished(const Outcome& outcome, v1::Finished* wire) { Finish(outcome, wire); }
void FillFinished(const Outcome& outcome, v1::GenerateResponse* wire) { Finish(outcome, wire); }

WireStatus ToWire(const absl::Status& status, absl::string_view request_id, Stage stage) {
  WireStatus wire;
  wire.trailers.emplace_back("x-request-id", std::string(request_id));
  if (status.ok()) return wire;
  google::rpc::Status rich;
  const grpc::StatusCode code = ToGrpcCode(status.code());
  rich.set_code(code);
  const absl::string_view message = Shortened(status.message(), kMaxMessageBytes);
  rich.set_message(message.data(), message.size());
  if (code == grpc::StatusCode::INTERNAL) {
    // A device's or a file's own words are for the operator: they may hold paths and addresses.
    rich.set_message(
        absl::StrCat("internal error; the server's log has it under request ", request_id));
  }
  AddDetails(status, stage, &rich, &wire.trailers);
  wire.status = grpc::Status(code, rich.message(), rich.SerializeAsString());
  return wire;
}

Trailers UsageTrailers(const Outcome& outcome) {
  return {
      {"nibble-prompt-tokens", absl::StrCat(outcome.usage.prompt_tokens)},
      {"nibble-cached-tokens", absl::StrCat(outcome.usage.cached_tokens)},
      {"nibble-completion-tokens", absl::StrCat(outcome.usage.completion_tokens)},
      {"nibble-queue-seconds", Fixed(outcome.timings.queue)},
      {"nibble-prefill-seconds", Fixed(outcome.timings.prefill)},
      {"nibble-first-token-seconds", Fixed(outcome.timings.first_token)},
      {"nibble-decode-seconds", Fixed(outcome.timings.decode)},
      {"nibble-total-seconds", Fixed(outcome.timings.total)},
      {"nibble-preemptions", absl::StrCat(outcome.timings.preemptions)},
      {"nibble-recomputed-tokens", absl::StrCat(outcome.timings.recomputed_tokens)},
  };
}

absl::string_view FinishReasonName(FinishReason why) {
  constexpr absl::string_view kNames[] = {"",           "eos",        "stop_sequence",
                                          "stop_token", "max_tokens", "context_length",
                                          "deadline",   "drained"};
  return kNames[static_cast<size_t>(why)];
}

absl::string_view CodeName(grpc::StatusCode code) {
  constexpr absl::string_view kNames[] = {"OK",
                                          "CANCELLED",
                                          "UNKNOWN",
                                          "INVALID_ARGUMENT",
                                          "DEADLINE_EXCEEDED",
                                          "NOT_FOUND",
                                          "ALREADY_EXISTS",
                                          "PERMISSION_DENIED",
                                          "RESOURCE_EXHAUSTED",
                                          "FAILED_PRECONDITION",
                                          "ABORTED",
                                          "OUT_OF_RANGE",
                                          "UNIMPLEMENTED",
                                          "INTERNAL",
                                          "UNAVAILABLE",
                                          "DATA_LOSS",
                                          "UNAUTHENTICATED"};
  const size_t i = static_cast<size_t>(code);
  return i < sizeof(kNames) / sizeof(kNames[0]) ? kNames[i] : kNames[2];
}

}  // namespace nibble

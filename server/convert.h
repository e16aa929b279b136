// Between the wire and the engine: requests in, events and errors out. The only place where an
// absl::Status becomes a grpc::Status, so what an error tells a client is decided here and nowhere
// else.
#pragma once

#include <grpcpp/support/status.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/request.h"
#include "nibble/v1/generation.pb.h"
#include "nibble/v1/prompt.pb.h"

namespace nibble {

// What a request asks of the transport, beyond what the engine does.
struct StreamParams {
  int32_t delta_interval_tokens = 1;
};

inline constexpr int32_t kMaxDeltaIntervalTokens =
    1024;  // a client that wants less often wants Generate
inline constexpr double kMaxTimeLimitSeconds = 86400;

// INVALID_ARGUMENT carries the field (FieldError). Ranges that need no model are the engine's
// (Engine::Prepare); here are those that the wire alone can get wrong. Moves the prompt out of
// `wire`.
absl::StatusOr<GenerateRequest> ToEngine(v1::GenerateRequest&& wire);
absl::StatusOr<GenerateRequest> ToEngine(v1::GenerateStreamRequest&& wire);
absl::StatusOr<StreamParams> StreamParamsOf(const v1::GenerateStreamRequest& wire);
absl::StatusOr<std::vector<ChatMessage>> ToEngine(const v1::ChatMessages& wire);

// A guess without tokenizing, exact for token ids: about four bytes a token, as English has.
int64_t GuessPromptTokens(const v1::GenerateRequest& wire);
int64_t GuessPromptTokens(const v1::GenerateStreamRequest& wire);

// Results out. `seconds` limits and the like are echoed as they were asked for.
void FillStarted(const Started& started, absl::string_view request_id, absl::string_view model,
                 v1::Started* wire);
void FillEffective(const GenerateRequest& effective, v1::EffectiveParams* wire);
// Appends to what is there already.
void AppendDelta(Delta delta, v1::Delta* wire);
void AppendDelta(Delta delta, v1::GenerateResponse* wire);
void FillFinished(const Outcome& outcome, v1::Finished* wire);
void FillFinished(const Outcome& outcome, v1::GenerateResponse* wire);

using Trailers =
    std::vector<std::pair<std::string, std::string>>;  // keys in lower case, values ASCII

struct WireStatus {
  grpc::Status status;
  Trailers trailers;
};

// Details by code: BadRequest for a field, QuotaFailure and RetryInfo (and grpc-retry-pushback-ms)
// for a full queue, RetryInfo when unavailable, ErrorInfo with the stage for a deadline. INTERNAL,
// UNKNOWN and DATA_LOSS tell nothing but the request id. `stage` is where the request was when it
// ended.
WireStatus ToWire(const absl::Status& status, absl::string_view request_id,
                  Stage stage = Stage::kQueued);

// Usage and timings of a request that ran, for proxies' and load tools' logs: nibble-prompt-tokens,
// ...
Trailers UsageTrailers(const Outcome& outcome);

absl::string_view FinishReasonName(FinishReason why);  // "eos" ..., "" when unspecified
absl::string_view CodeName(grpc::StatusCode code);     // "OK", "INVALID_ARGUMENT", ...

}  // namespace nibble

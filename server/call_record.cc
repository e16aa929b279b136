#include "server/call_record.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "server/refusal.h"

namespace nibble {
namespace {

// gRPC cancels an expired call from a timer of its own, a little off from ours.
constexpr Duration kDeadlineSlack = std::chrono::milliseconds(10);

std::string ReasonOf(const absl::Status& status, Stage stage) {
  std::string reason = PayloadOf(status, kReasonPayload);
  if (!reason.empty()) return reason;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return "invalid_argument";
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kDeadlineExceeded:
      return absl::StrCat("deadline_", StageName(stage));
    case absl::StatusCode::kResourceExhausted:
      return "resources";
    case absl::StatusCode::kUnavailable:
      return "draining";
    case absl::StatusCode::kUnimplemented:
      return "unimplemented";
    default:
      return "failed";
  }
}

}  // namespace

CallRecord::CallRecord(ServerParts& parts, absl::string_view rpc, std::string peer)
    : parts_(parts),
      rpc_(rpc),
      peer_(std::move(peer)),
      request_id_(parts.request_ids.Next()),
      arrival_(parts.clock.Now()) {
  parts_.metrics.RequestStarted();
}

WireStatus CallRecord::Refuse(const absl::Status& why) {
  NIBBLE_CHECK(!why.ok());
  WireStatus wire = ToWire(why, request_id_);
  const std::string quota = PayloadOf(why, kQuotaPayload);
  if (!quota.empty()) parts_.metrics.RequestRefused(quota);
  Book(why, ReasonOf(why, Stage::kQueued), wire, nullptr);
  return wire;
}

absl::Status CallRecord::Verdict(const Outcome& outcome, bool client_left) const {
  const bool cancelled = outcome.status.code() == absl::StatusCode::kCancelled;
  if (!cancelled && !(client_left && outcome.status.ok())) return outcome.status;
  if (deadline_.has_value() && parts_.clock.Now() + kDeadlineSlack >= *deadline_) {
    return absl::DeadlineExceededError("the call's deadline passed");
  }
  return absl::CancelledError("the client left");
}

WireStatus CallRecord::Finish(const Outcome& outcome, bool client_left) {
  const absl::Status verdict = Verdict(outcome, client_left);
  WireStatus wire = ToWire(verdict, request_id_, outcome.stage);
  for (auto& trailer : UsageTrailers(outcome)) wire.trailers.push_back(std::move(trailer));
  const std::string reason = verdict.ok() ? std::string(FinishReasonName(outcome.finish_reason))
                                          : ReasonOf(verdict, outcome.stage);
  ticket_.ReleaseQueued();
  Book(verdict, reason, wire, &outcome);
  return wire;
}

void CallRecord::Book(const absl::Status& status, absl::string_view reason, const WireStatus& wire,
                      const Outcome* outcome) {
  NIBBLE_CHECK(!booked_);
  booked_ = true;
  const Duration took = parts_.clock.Now() - arrival_;
  const absl::string_view code = CodeName(wire.status.error_code());
  parts_.metrics.RequestFinished(code, reason, took);
  const Usage usage = outcome != nullptr ? outcome->usage : Usage{};
  const Timings timings = outcome != nullptr ? outcome->timings : Timings{};
  parts_.log.Info("request_finished", {{"request_id", request_id_},
                                       {"rpc", rpc_},
                                       {"peer", peer_},
                                       {"code", code},
                                       {"reason", reason},
                                       {"field", PayloadOf(status, kFieldPayload)},
                                       {"prompt_tokens", usage.prompt_tokens},
                                       {"cached_tokens", usage.cached_tokens},
                                       {"completion_tokens", usage.completion_tokens},
                                       {"queue_seconds", Seconds(timings.queue)},
                                       {"prefill_seconds", Seconds(timings.prefill)},
                                       {"first_token_seconds", Seconds(timings.first_token)},
                                       {"decode_seconds", Seconds(timings.decode)},
                                       {"preemptions", timings.preemptions},
                                       {"seconds", Seconds(took)}});
  if (wire.status.error_code() == grpc::StatusCode::INTERNAL) {
    parts_.log.Error("request_failed", {{"request_id", request_id_}, {"error", status.ToString()}});
  }
}

}  // namespace nibble

// The end of a unary call that is answered on the spot. For the services' own files: it drags in
// gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/base/log.h"
#include "server/convert.h"
#include "server/open_calls.h"
#include "server/parts.h"

namespace nibble {

// An answer on its way: holds the call's ticket until gRPC is done with it, and is cut off like
// every other that its client does not take. Deletes itself.
class AnsweredCall final : public grpc::ServerUnaryReactor {
 public:
  AnsweredCall(grpc::CallbackServerContext* context, ServerParts& parts, Admission::Ticket ticket,
               const grpc::Status& status)
      : ticket_(std::move(ticket)),
        answer_(std::make_shared<UnaryAnswer>([context] { context->TryCancel(); })) {
    parts.open_calls.Add(answer_);
    answer_->Sending(parts.clock.Now());
    Finish(status);
  }
  void OnDone() override {
    answer_->Gone();
    delete this;
  }

 private:
  const Admission::Ticket ticket_;
  const std::shared_ptr<UnaryAnswer> answer_;
};

inline grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                             ServerParts& parts, const absl::Status& status,
                                             Admission::Ticket ticket = {}) {
  const std::string request_id = parts.request_ids.Next();
  const WireStatus wire = ToWire(status, request_id);
  for (const auto& [key, value] : wire.trailers) context->AddTrailingMetadata(key, value);
  if (wire.status.error_code() == grpc::StatusCode::INTERNAL) {
    parts.log.Error("request_failed", {{"request_id", request_id}, {"error", status.ToString()}});
  }
  return new AnsweredCall(context, parts, std::move(ticket), wire.status);
}

// gRPC keeps a request until its call ends, which is up to the client; what it holds goes at once.
// For calls that nobody admits and counts, or no longer.
template <typename Message>
void DropRequest(const Message* request) {
  Message().Swap(const_cast<Message*>(request));
}

}  // namespace nibble

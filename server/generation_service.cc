#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "engine/base/status_macros.h"
#include "nibble/v1/generation.grpc.pb.h"
#include "server/call_record.h"
#include "server/finish_unary.h"
#include "server/open_calls.h"
#include "server/services.h"
#include "server/stream_sink.h"
#include "server/stream_writer.h"
#include "server/unary_sink.h"

namespace nibble {
namespace {

// The wire's deadline is wall-clock time, the engine's is monotonic: what is left is what counts.
// The engine's deadline lies a little before the caller's, so that the answer, which says the
// stage, arrives before the caller's own timer ends the call with nothing but a code.
constexpr Duration kLongestDeadlineMargin = std::chrono::milliseconds(50);
constexpr int kDeadlineMarginShare = 20;  // of what is left

std::optional<Instant> DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return std::nullopt;  // also "infinite"
  const auto ours = std::chrono::duration_cast<Duration>(left);
  return clock.Now() + ours - std::min(kLongestDeadlineMargin, ours / kDeadlineMarginShare);
}

void AddTrailers(grpc::CallbackServerContext* context, const WireStatus& status) {
  for (const auto& [key, value] : status.trailers) context->AddTrailingMetadata(key, value);
}

struct Accepted {
  PreparedRequest prepared;
  StreamParams stream;
  ServingState::Serving serving;
};

StreamParams Extra(const v1::GenerateRequest&) { return {}; }
absl::StatusOr<StreamParams> Extra(const v1::GenerateStreamRequest& wire) {
  return StreamParamsOf(wire);
}

// From the wire to a request the engine will take; nothing is copied before it is admitted.
template <typename Wire>
absl::StatusOr<Accepted> Accept(ServerParts& parts, CallRecord& record, const Wire* request) {
  Accepted accepted;
  NIBBLE_ASSIGN_OR_RETURN(
      accepted.serving,
      parts.state.ForGeneration(request->has_model() ? &request->model() : nullptr));
  const Engine& engine = *accepted.serving.engine;
  // Longer than the context is refused by the engine, so such a request may not crowd out others
  // here.
  const int64_t guess = std::min<int64_t>(GuessPromptTokens(*request), engine.limits().max_context);
  NIBBLE_ASSIGN_OR_RETURN(Admission::Ticket ticket,
                          parts.admission.Admit(guess, request->ByteSizeLong()));
  record.set_ticket(std::move(ticket));
  NIBBLE_ASSIGN_OR_RETURN(accepted.stream, absl::StatusOr<StreamParams>(Extra(*request)));

  // gRPC keeps the request until the call ends; taking its content lets the bytes go when the
  // prompt is tokens.
  Wire wire;
  wire.Swap(const_cast<Wire*>(request));
  NIBBLE_ASSIGN_OR_RETURN(GenerateRequest ours, ToEngine(std::move(wire)));
  ours.deadline = record.deadline();
  NIBBLE_ASSIGN_OR_RETURN(accepted.prepared, engine.Prepare(std::move(ours)));
  NIBBLE_RETURN_IF_ERROR(
      record.ticket().SetPromptTokens(static_cast<int64_t>(accepted.prepared.prompt_ids.size())));
  return accepted;
}

class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(ServerParts& parts, grpc::CallbackServerContext* context,
               std::shared_ptr<CallRecord> record)
      : context_(context),
        clock_(parts.clock),
        record_(std::move(record)),
        answer_(std::make_shared<UnaryAnswer>([context] { context->TryCancel(); })) {
    parts.open_calls.Add(answer_);
  }

  void Refuse(const absl::Status& why) {
    record_->ticket().Release();
    End(record_->Refuse(why));
  }

  void Submit(Accepted accepted, v1::GenerateResponse* response) {
    sink_ =
        std::make_shared<UnarySink>(accepted.serving.engine, record_, accepted.serving.model->name,
                                    response, [this](const WireStatus& status) { End(status); });
    // A copy: after Submit the call may end, and this object with it, at any moment.
    const std::shared_ptr<UnarySink> sink = sink_;
    sink->call().SetId(accepted.serving.engine->Submit(std::move(accepted.prepared), sink));
  }

  void OnCancel() override {
    if (sink_ != nullptr) sink_->ClientLeft();
  }
  void OnDone() override {
    answer_->Gone();
    record_->ticket().Release();
    delete this;
  }

 private:
  void End(const WireStatus& status) {
    AddTrailers(context_, status);
    answer_->Sending(clock_.Now());
    Finish(status.status);
  }

  grpc::CallbackServerContext* const context_;
  const Clock& clock_;
  const std::shared_ptr<CallRecord> record_;
  const std::shared_ptr<UnaryAnswer> answer_;
  std::shared_ptr<UnarySink> sink_;
};

class StreamReactor final : public grpc::ServerWriteReactor<v1::GenerateStreamResponse>,
                            public StreamTransport {
 public:
  StreamReactor(grpc::CallbackServerContext* context, std::shared_ptr<CallRecord> record)
      : context_(context), record_(std::move(record)) {}

  void Refuse(const absl::Status& why) {
    record_->ticket().Release();
    End(nullptr, record_->Refuse(why));
  }

  void Submit(ServerParts& parts, Accepted accepted) {
    sink_ = std::make_shared<StreamSink>(
        this, accepted.serving.engine, record_, parts.clock,
        [&writer = parts.stream_writer](std::shared_ptr<StreamSink> sink) {
          writer.Post(std::move(sink));
        },
        StreamSink::Options{.model = accepted.serving.model->name,
                            .params = accepted.stream,
                            .max_buffer_bytes = parts.options.limits.max_stream_buffer_bytes});
    parts.open_calls.Add(sink_);
    // A copy: after Submit the call may end, and this object with it, at any moment.
    const std::shared_ptr<StreamSink> sink = sink_;
    sink->call().SetId(accepted.serving.engine->Submit(std::move(accepted.prepared), sink));
  }

  void Write(const v1::GenerateStreamResponse& message) override { StartWrite(&message); }
  void End(const v1::GenerateStreamResponse* last, const WireStatus& status) override {
    AddTrailers(context_, status);
    if (last != nullptr) {
      StartWriteAndFinish(last, grpc::WriteOptions(), status.status);
    } else {
      Finish(status.status);
    }
  }
  void Abort() override { context_->TryCancel(); }

  void OnWriteDone(bool ok) override { sink_->WriteDone(ok); }
  void OnCancel() override {
    if (sink_ != nullptr) sink_->ClientLeft();
  }
  void OnDone() override {
    if (sink_ != nullptr) sink_->Detach();
    record_->ticket().Release();
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<CallRecord> record_;
  std::shared_ptr<StreamSink> sink_;
};

class GenerationService final : public v1::GenerationService::CallbackService {
 public:
  explicit GenerationService(ServerParts& parts) : parts_(parts) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override {
    auto record = Open(context, "Generate");
    auto* reactor = new UnaryReactor(parts_, context, record);  // deletes itself in OnDone
    absl::StatusOr<Accepted> accepted = Accept(parts_, *record, request);
    if (accepted.ok()) {
      reactor->Submit(*std::move(accepted), response);
    } else {
      DropRequest(request);
      reactor->Refuse(accepted.status());
    }
    return reactor;
  }

  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateStreamRequest* request) override {
    auto record = Open(context, "GenerateStream");
    auto* reactor = new StreamReactor(context, record);  // deletes itself in OnDone
    absl::StatusOr<Accepted> accepted = Accept(parts_, *record, request);
    if (accepted.ok()) {
      reactor->Submit(parts_, *std::move(accepted));
    } else {
      DropRequest(request);
      reactor->Refuse(accepted.status());
    }
    return reactor;
  }

 private:
  std::shared_ptr<CallRecord> Open(grpc::CallbackServerContext* context, absl::string_view rpc) {
    auto record = std::make_shared<CallRecord>(parts_, rpc, context->peer());
    record->set_deadline(DeadlineOf(*context, parts_.clock));
    context->AddInitialMetadata("x-request-id", record->request_id());
    return record;
  }

  ServerParts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateGenerationService(ServerParts& parts) {
  return std::make_unique<GenerationService>(parts);
}

}  // namespace nibble

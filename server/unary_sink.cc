#include "server/unary_sink.h"

#include <utility>

namespace nibble {

UnarySink::UnarySink(Engine* engine, std::shared_ptr<CallRecord> record, std::string model,
                     v1::GenerateResponse* response, std::function<void(const WireStatus&)> finish)
    : record_(std::move(record)),
      model_(std::move(model)),
      response_(response),
      finish_(std::move(finish)),
      call_(engine) {}

void UnarySink::ClientLeft() {
  client_left_.store(true);
  call_.Cancel();
}

void UnarySink::OnStarted(const Started& started) {
  call_.SetId(started.id);
  record_->ticket().ReleaseQueued();
  response_->set_request_id(record_->request_id());
  response_->set_model(model_);
  FillEffective(started.effective, response_->mutable_effective());
}

TokenSink::Room UnarySink::OnDelta(Delta delta) {
  AppendDelta(std::move(delta), response_);
  return Room::kReady;
}

void UnarySink::OnFinished(const Outcome& outcome) {
  FillFinished(outcome, response_);
  finish_(record_->Finish(outcome, client_left_.load()));
}

}  // namespace nibble

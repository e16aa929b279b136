// Collects a whole completion for Generate. The engine thread alone writes to it; what it holds is
// bounded by the tokens of one sequence.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "engine/request.h"
#include "server/call_record.h"
#include "server/convert.h"
#include "server/engine_call.h"

namespace nibble {

class UnarySink final : public TokenSink {
 public:
  // `response` is the transport's and stays until `finish` was called, which happens exactly once.
  UnarySink(Engine* engine, std::shared_ptr<CallRecord> record, std::string model,
            v1::GenerateResponse* response, std::function<void(const WireStatus&)> finish);

  EngineCall& call() { return call_; }

  // Any thread: the call is over for the client, whatever the engine still does.
  void ClientLeft();

  void OnStarted(const Started& started) override;
  Room OnDelta(Delta delta) override;
  void OnFinished(const Outcome& outcome) override;

 private:
  const std::shared_ptr<CallRecord> record_;
  const std::string model_;
  v1::GenerateResponse* const response_;
  const std::function<void(const WireStatus&)> finish_;
  EngineCall call_;
  std::atomic<bool> client_left_{false};
};

}  // namespace nibble

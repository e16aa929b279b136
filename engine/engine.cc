#include "engine/engine.h"

#include <thread>
#include <utility>

#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/engine_loop.h"
#include "engine/preparer.h"

namespace nibble {
namespace {

constexpr Duration kDumpPatience = std::chrono::seconds(2);  // longer than any healthy step

// EngineLoop with a thread of its own.
class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(EngineParts parts, std::unique_ptr<EngineLoop> loop, uint64_t seed)
      : parts_(std::move(parts)),
        preparer_(*parts_.tokenizer, parts_.chat_template.get(), parts_.runner->limits(), seed),
        loop_(std::move(loop)),
        thread_([this] { loop_->Run(); }) {}

  ~ThreadedEngine() override {
    loop_->Stop();
    thread_.join();
  }

  absl::StatusOr<PreparedRequest> Prepare(GenerateRequest request) const override {
    return preparer_.Prepare(std::move(request));
  }
  RequestId Submit(PreparedRequest request, std::shared_ptr<TokenSink> sink) override {
    return loop_->Submit(std::move(request), std::move(sink));
  }
  void Cancel(RequestId id) override { loop_->Cancel(id); }
  void Resume(RequestId id) override { loop_->Resume(id); }
  void Drain(Duration timeout) override { loop_->Drain(timeout); }
  bool Idle() const override { return loop_->Idle(); }
  EngineLoad Load() const override { return loop_->Load(); }
  std::string DumpState() const override { return loop_->DumpState(kDumpPatience); }
  RunnerLimits limits() const override { return parts_.runner->limits(); }
  const Tokenizer& tokenizer() const override { return *parts_.tokenizer; }
  const ChatTemplate* chat_template() const override { return parts_.chat_template.get(); }

 private:
  EngineParts parts_;
  Preparer preparer_;
  std::unique_ptr<EngineLoop> loop_;
  std::thread thread_;  // last: runs only once all the rest exists
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(EngineParts parts,
                                                       const EngineOptions& options) {
  if (parts.runner == nullptr || parts.tokenizer == nullptr || parts.clock == nullptr) {
    return absl::InvalidArgumentError("an engine needs a runner, a tokenizer and a clock");
  }
  const LoopParts borrowed{parts.runner.get(), parts.tokenizer.get(), parts.clock, parts.observer};
  NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<EngineLoop> loop, EngineLoop::Create(borrowed, options));
  const uint64_t seed = options.seed != 0 ? options.seed : RandomSeed();
  return std::unique_ptr<Engine>(new ThreadedEngine(std::move(parts), std::move(loop), seed));
}

}  // namespace nibble

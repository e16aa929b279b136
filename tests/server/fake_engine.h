// An engine without a model: it has a thread and a mailbox as the real one, validates as the real
// one (Preparer), and repeats the prompt's bytes as tokens. A test can hold requests in a stage,
// let them run for ever, or break the engine.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "engine/base/mailbox.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "engine/preparer.h"
#include "tests/engine/fakes/fake_tokenizer.h"

namespace nibble {

class FakeEngine final : public Engine {
 public:
  enum class Behaviour {
    kComplete,     // runs to the end at once
    kHoldQueued,   // never starts
    kHoldPrefill,  // starts, and has no first token
    kEndless,      // a token for ever, unless paused
  };
  struct Options {
    Behaviour behaviour = Behaviour::kComplete;
    int32_t max_context = 1024;
    int32_t bytes_per_token = 1;  // of text; more makes a slow reader's buffer fill sooner
    bool chat_template = true;
    bool keeps_deadlines = true;
    EngineObserver* observer = nullptr;
  };

  FakeEngine(const Clock& clock, const Options& options);
  ~FakeEngine() override;

  absl::StatusOr<PreparedRequest> Prepare(GenerateRequest request) const override {
    return preparer_.Prepare(std::move(request));
  }
  RequestId Submit(PreparedRequest request, std::shared_ptr<TokenSink> sink) override;
  void Cancel(RequestId id) override;
  void Resume(RequestId id) override;
  void Drain(Duration timeout) override;
  bool Idle() const override { return open_.load() == 0; }
  EngineLoad Load() const override;
  std::string DumpState() const override { return "fake engine\n"; }
  RunnerLimits limits() const override { return limits_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  const ChatTemplate* chat_template() const override {
    return options_.chat_template ? &template_ : nullptr;
  }

  // For tests, from any thread.
  void Fail(const absl::Status& why);            // every request ends so, nothing runs any more
  void SetStuck(bool stuck) { stuck_ = stuck; }  // reports work, does none, and hears nobody
  void FinishLayer() { ++layers_; }              // of a step under way, also where it is stuck
  void SetPausedWaiting(int n) { paused_waiting_ = n; }  // so many lost their blocks while paused
  int64_t loads() const { return loads_.load(); }        // times somebody asked for Load
  int submitted() const { return submitted_.load(); }
  int open() const { return open_.load(); }
  int64_t paused_times() const { return paused_times_.load(); }
  int64_t tokens() const { return tokens_.load(); }
  GenerateRequest last_params() const;

 private:
  struct Request {
    PreparedRequest prepared;
    std::shared_ptr<TokenSink> sink;
    Stage stage = Stage::kQueued;
    bool paused = false;
    int32_t generated = 0;
    std::optional<Instant> end;  // of the drain
  };
  using Requests = std::map<RequestId, Request>;

  void Run();
  void Step();
  void StartRequest(RequestId id, Request& request);
  bool Advance(Request& request);  // true: finished
  void Finish(Requests::iterator it, absl::Status status, FinishReason reason);
  void Expire();

  const Clock& clock_;
  const Options options_;
  RunnerLimits limits_;
  FakeTokenizer tokenizer_;
  FakeChatTemplate template_;
  Preparer preparer_;

  std::atomic<uint64_t> next_id_{1};
  std::atomic<int> submitted_{0};
  std::atomic<int> open_{0};
  std::atomic<int> running_{0};
  std::atomic<int> paused_now_{0};
  std::atomic<int64_t> paused_times_{0};
  std::atomic<int64_t> tokens_{0};
  std::atomic<int64_t> steps_{0};
  std::atomic<int64_t> layers_{0};
  std::atomic<bool> stuck_{false};
  std::atomic<int> paused_waiting_{0};
  mutable std::atomic<int64_t> loads_{0};
  std::atomic<bool> draining_{false};
  mutable Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  GenerateRequest last_params_ ABSL_GUARDED_BY(mutex_);

  Mailbox<std::function<void()>> mailbox_;
  bool stopping_ = false;  // the thread's
  Requests requests_;      // the thread's
  std::thread thread_;
};

}  // namespace nibble

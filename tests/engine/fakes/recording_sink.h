// A client that keeps all it hears and notices when the engine breaks the order of request.h:
// started first, finished once and last.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/request.h"

namespace nibble {

class RecordingSink final : public TokenSink {
 public:
  void OnStarted(const Started& started) override;
  Room OnDelta(Delta delta) override;
  void OnFinished(const Outcome& outcome) override;

  // Asked on every delta for the answer; default always kReady. Set before Submit.
  void set_room(std::function<Room()> room) { room_ = std::move(room); }

  // Waits (threaded tests only) until OnFinished came.
  void WaitFinished();
  void WaitTokens(size_t n);

  // Copies, so that they are safe while the engine runs.
  std::optional<Started> started() const;
  std::string text() const;
  std::vector<int32_t> tokens() const;
  std::vector<Logprob> logprobs() const;
  std::vector<std::optional<Logprob>> prompt_logprobs() const;
  std::vector<Delta> deltas() const;
  std::optional<Outcome> outcome() const;
  int finished() const;           // times OnFinished came
  std::string violation() const;  // empty: every call came in its place

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  std::function<Room()> room_;
  std::optional<Started> started_ ABSL_GUARDED_BY(mutex_);
  std::vector<Delta> deltas_ ABSL_GUARDED_BY(mutex_);
  std::vector<int32_t> tokens_ ABSL_GUARDED_BY(mutex_);
  std::optional<Outcome> outcome_ ABSL_GUARDED_BY(mutex_);
  int finished_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string violation_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble

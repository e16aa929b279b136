#include "tests/engine/fakes/recording_sink.h"

namespace nibble {

void RecordingSink::OnStarted(const Started& started) {
  MutexLock lock(mutex_);
  if (started_ || !deltas_.empty() || finished_ > 0) violation_ = "OnStarted out of place";
  started_ = started;
  changed_.NotifyAll();
}

TokenSink::Room RecordingSink::OnDelta(Delta delta) {
  {
    MutexLock lock(mutex_);
    if (!started_ || finished_ > 0) violation_ = "OnDelta out of place";
    if (!deltas_.empty() && !delta.prompt_logprobs.empty()) {
      violation_ = "prompt_logprobs after the first delta";
    }
    tokens_.insert(tokens_.end(), delta.token_ids.begin(), delta.token_ids.end());
    deltas_.push_back(std::move(delta));
    changed_.NotifyAll();
  }
  return room_ ? room_() : Room::kReady;
}

void RecordingSink::OnFinished(const Outcome& outcome) {
  MutexLock lock(mutex_);
  if (++finished_ > 1) violation_ = "OnFinished more than once";
  const bool has_reason = outcome.finish_reason != FinishReason::kUnspecified;
  if (outcome.status.ok() != has_reason) violation_ = "status and finish reason disagree";
  outcome_ = outcome;
  changed_.NotifyAll();
}

void RecordingSink::WaitFinished() {
  MutexLock lock(mutex_);
  while (finished_ == 0) changed_.Wait(mutex_);
}

void RecordingSink::WaitTokens(size_t n) {
  MutexLock lock(mutex_);
  while (tokens_.size() < n && finished_ == 0) changed_.Wait(mutex_);
}

std::optional<Started> RecordingSink::started() const {
  MutexLock lock(mutex_);
  return started_;
}

std::string RecordingSink::text() const {
  MutexLock lock(mutex_);
  std::string text;
  for (const Delta& delta : deltas_) text += delta.text;
  return text;
}

std::vector<int32_t> RecordingSink::tokens() const {
  MutexLock lock(mutex_);
  return tokens_;
}

std::vector<Logprob> RecordingSink::logprobs() const {
  MutexLock lock(mutex_);
  std::vector<Logprob> out;
  for (const Delta& delta : deltas_) {
    out.insert(out.end(), delta.logprobs.begin(), delta.logprobs.end());
  }
  return out;
}

std::vector<std::optional<Logprob>> RecordingSink::prompt_logprobs() const {
  MutexLock lock(mutex_);
  return deltas_.empty() ? std::vector<std::optional<Logprob>>() : deltas_[0].prompt_logprobs;
}

std::vector<Delta> RecordingSink::deltas() const {
  MutexLock lock(mutex_);
  return deltas_;
}

std::optional<Outcome> RecordingSink::outcome() const {
  MutexLock lock(mutex_);
  return outcome_;
}

int RecordingSink::finished() const {
  MutexLock lock(mutex_);
  return finished_;
}

std::string RecordingSink::violation() const {
  MutexLock lock(mutex_);
  return violation_;
}

}  // namespace nibble

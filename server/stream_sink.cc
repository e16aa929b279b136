#include "server/stream_sink.h"

#include <utility>

namespace nibble {
namespace {

// About what it holds in memory and on the wire; exact sizes would cost a walk for each token.
int64_t BytesOf(const Delta& delta) {
  constexpr int64_t kIdBytes = 4;
  constexpr int64_t kLogprobBytes = 16;
  const auto with_top = [](const Logprob& logprob) {
    return kLogprobBytes * static_cast<int64_t>(1 + logprob.top.size());
  };
  int64_t bytes = static_cast<int64_t>(delta.text.size()) +
                  kIdBytes * static_cast<int64_t>(delta.token_ids.size());
  for (const Logprob& logprob : delta.logprobs) bytes += with_top(logprob);
  for (const auto& logprob : delta.prompt_logprobs) {
    if (logprob.has_value()) bytes += with_top(*logprob);
  }
  return bytes;
}

}  // namespace

StreamSink::StreamSink(StreamTransport* transport, Engine* engine,
                       std::shared_ptr<CallRecord> record, const Clock& clock, Post post,
                       Options options)
    : record_(std::move(record)),
      clock_(clock),
      post_(std::move(post)),
      options_(std::move(options)),
      call_(engine),
      transport_(transport),
      progress_(clock.Now()) {}

void StreamSink::OnStarted(const Started& started) {
  call_.SetId(started.id);
  record_->ticket().ReleaseQueued();
  {
    MutexLock lock(mutex_);
    if (client_left_) return;
    started_.emplace();
    v1::Started* wire = started_->mutable_started();
    FillStarted(started, record_->request_id(), options_.model, wire);
    wire->mutable_effective()->mutable_response()->set_delta_interval_tokens(
        options_.params.delta_interval_tokens);
  }
  PostIfIdle();
}

TokenSink::Room StreamSink::OnDelta(Delta delta) {
  const int64_t bytes = BytesOf(delta);
  bool full = false;
  {
    MutexLock lock(mutex_);
    if (client_left_) return Room::kReady;  // nobody reads it; the cancellation is on its way
    AppendDelta(std::move(delta), delta_.mutable_delta());
    has_delta_ = true;
    delta_bytes_ += bytes;
    full = delta_bytes_ >= options_.max_buffer_bytes && (writing_ || posted_);
    if (full) paused_ = true;
  }
  PostIfIdle();
  return full ? Room::kFull : Room::kReady;
}

void StreamSink::OnFinished(const Outcome& outcome) {
  {
    MutexLock lock(mutex_);
    outcome_ = outcome;
  }
  PostIfIdle();
}

// A write in flight looks for more when it comes back.
void StreamSink::PostIfIdle() {
  {
    MutexLock lock(mutex_);
    const bool due = started_.has_value() || DeltaIsDue() || outcome_.has_value();
    if (!due || writing_ || std::exchange(posted_, true)) return;
  }
  post_(shared_from_this());
}

void StreamSink::WritePosted() {
  {
    MutexLock lock(mutex_);
    posted_ = false;
  }
  Pump();
}

void StreamSink::WriteDone(bool ok) {
  {
    MutexLock lock(mutex_);
    writing_ = false;
    progress_ = clock_.Now();
  }
  if (!ok) {
    ClientLeft();
  } else {
    Pump();
  }
}

void StreamSink::ClientLeft() {
  {
    MutexLock lock(mutex_);
    client_left_ = true;
    started_.reset();
    delta_.Clear();
    has_delta_ = false;
    delta_bytes_ = 0;
  }
  call_.Cancel();
  Pump();
}

void StreamSink::Detach() {
  {
    MutexLock lock(mutex_);
    transport_ = nullptr;
  }
  record_->ticket().Release();
}

bool StreamSink::AbortIfStuckSince(Instant since) {
  MutexLock lock(mutex_);
  if (transport_ == nullptr || !(writing_ || ended_) || client_left_ || progress_ > since)
    return false;
  // Under the lock, or Detach might come between; it only marks the call, what follows comes as
  // OnCancel.
  transport_->Abort();
  return true;
}

bool StreamSink::DeltaIsDue() const {
  if (!has_delta_) return false;
  return outcome_.has_value() || !sent_delta_ || delta_bytes_ >= options_.max_buffer_bytes ||
         delta_.delta().token_ids_size() >= options_.params.delta_interval_tokens;
}

void StreamSink::EndAction(Action* action) {
  ended_ = true;
  action->end = true;
  action->status = record_->Finish(*outcome_, client_left_);
  if (!client_left_ && outcome_->status.ok()) {
    in_flight_.Clear();
    FillFinished(*outcome_, in_flight_.mutable_finished());
    action->message = &in_flight_;
  }
}

StreamSink::Action StreamSink::NextAction() {
  Action action;
  if (writing_ || ended_) return action;
  progress_ = clock_.Now();
  if (started_.has_value()) {
    in_flight_.Swap(&*started_);
    started_.reset();
  } else if (DeltaIsDue()) {
    in_flight_.Clear();  // of the message before; keeps its memory for the next merge
    in_flight_.Swap(&delta_);
    has_delta_ = false;
    sent_delta_ = true;
    delta_bytes_ = 0;
    action.resume = std::exchange(paused_, false);
  } else {
    if (outcome_.has_value()) EndAction(&action);
    return action;
  }
  writing_ = true;
  action.write = true;
  action.message = &in_flight_;
  return action;
}

void StreamSink::Pump() {
  Action action;
  StreamTransport* transport = nullptr;
  {
    MutexLock lock(mutex_);
    action = NextAction();
    transport = transport_;
  }
  // The transport lives until End was called, and only the one thread that got the action calls it.
  if (action.resume) call_.Resume();
  if (action.write) transport->Write(*action.message);
  if (action.end) transport->End(action.message, action.status);
}

}  // namespace nibble

#include "server/admission.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/refusal.h"

namespace nibble {

Admission::Ticket::Ticket(Ticket&& other) noexcept
    : admission_(std::exchange(other.admission_, nullptr)),
      tokens_(other.tokens_),
      bytes_(other.bytes_) {}

Admission::Ticket& Admission::Ticket::operator=(Ticket&& other) noexcept {
  if (this != &other) {
    Release();
    admission_ = std::exchange(other.admission_, nullptr);
    tokens_ = other.tokens_;
    bytes_ = other.bytes_;
  }
  return *this;
}

absl::Status Admission::CheckTokens(int64_t held, int64_t more) const {
  if (held == 0 || held + more <= limits_.max_queued_prompt_tokens) return absl::OkStatus();
  return QuotaFull(
      "queued_prompt_tokens",
      absl::StrCat("the queue holds ", held, " prompt tokens of ", limits_.max_queued_prompt_tokens,
                   ", the request has about ", more, "; try again later"));
}

absl::Status Admission::CheckBytes(int64_t held, int64_t more) const {
  if (held == 0 || held + more <= limits_.max_queued_bytes) return absl::OkStatus();
  return QuotaFull("queued_bytes",
                   absl::StrCat("calls hold ", held, " bytes of ", limits_.max_queued_bytes,
                                ", this one has ", more, "; try again later"));
}

absl::StatusOr<Admission::Ticket> Admission::Admit(int64_t prompt_tokens, int64_t bytes) {
  MutexLock lock(mutex_);
  if (counts_.open_requests >= limits_.max_open_requests) {
    return QuotaFull("open_requests", absl::StrCat(counts_.open_requests, " requests are open of ",
                                                   limits_.max_open_requests, "; try again later"));
  }
  if (absl::Status status = CheckTokens(counts_.queued_prompt_tokens, prompt_tokens);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckBytes(counts_.queued_bytes, bytes); !status.ok()) return status;
  ++counts_.open_requests;
  counts_.queued_prompt_tokens += prompt_tokens;
  counts_.queued_bytes += bytes;
  return Ticket(this, prompt_tokens, bytes);
}

absl::Status Admission::Ticket::SetPromptTokens(int64_t tokens) {
  MutexLock lock(admission_->mutex_);
  Counts& counts = admission_->counts_;
  const int64_t others = counts.queued_prompt_tokens - tokens_;
  if (absl::Status status = admission_->CheckTokens(others, tokens); !status.ok()) return status;
  counts.queued_prompt_tokens = others + tokens;
  tokens_ = tokens;
  return absl::OkStatus();
}

absl::Status Admission::Ticket::SetBytes(int64_t bytes) {
  MutexLock lock(admission_->mutex_);
  Counts& counts = admission_->counts_;
  const int64_t others = counts.queued_bytes - bytes_;
  if (absl::Status status = admission_->CheckBytes(others, bytes); !status.ok()) return status;
  counts.queued_bytes = others + bytes;
  bytes_ = bytes;
  return absl::OkStatus();
}

void Admission::Ticket::ReleaseQueued() {
  if (admission_ == nullptr) return;
  MutexLock lock(admission_->mutex_);
  admission_->counts_.queued_prompt_tokens -= std::exchange(tokens_, 0);
  admission_->counts_.queued_bytes -= std::exchange(bytes_, 0);
}

void Admission::Ticket::Release() {
  if (admission_ == nullptr) return;
  ReleaseQueued();
  Admission* admission = std::exchange(admission_, nullptr);
  MutexLock lock(admission->mutex_);
  --admission->counts_.open_requests;
}

Admission::Counts Admission::counts() const {
  MutexLock lock(mutex_);
  return counts_;
}

}  // namespace nibble

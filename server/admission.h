// Who may come in: open requests, prompt tokens not yet processed, and request bytes, each against
// its limit. One step decides and counts, so a burst cannot pass between the two, and it comes
// before the request is copied, rendered or tokenized. What was admitted is held by a Ticket and
// given back when that goes.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "server/server.h"

namespace nibble {

class Admission {
 public:
  struct Counts {
    int32_t open_requests = 0;
    int64_t queued_prompt_tokens = 0;
    int64_t queued_bytes = 0;
  };

  // One admitted request's share. Move-only; not thread-safe itself.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept;
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket() { Release(); }

    // Replaces the guess of the prompt's tokens by their number. RESOURCE_EXHAUSTED when that is
    // over the limit.
    absl::Status SetPromptTokens(int64_t tokens);
    // Replaces the request's bytes by what the call holds by now. RESOURCE_EXHAUSTED as above.
    absl::Status SetBytes(int64_t bytes);
    // The prompt is being processed, its bytes are gone: only the open request is still counted.
    void ReleaseQueued();
    // Gives everything back. Again: nothing.
    void Release();

   private:
    friend class Admission;
    Ticket(Admission* admission, int64_t tokens, int64_t bytes)
        : admission_(admission), tokens_(tokens), bytes_(bytes) {}

    Admission* admission_ = nullptr;
    int64_t tokens_ = 0;
    int64_t bytes_ = 0;
  };

  explicit Admission(const ServerLimits& limits) : limits_(limits) {}

  // RESOURCE_EXHAUSTED (QuotaFull) names the limit that is reached. A request alone in its kind
  // always fits: what is too long for the model is the engine's to say, and retrying would not
  // help.
  absl::StatusOr<Ticket> Admit(int64_t prompt_tokens, int64_t bytes);

  Counts counts() const;
  const ServerLimits& limits() const { return limits_; }

 private:
  absl::Status CheckTokens(int64_t held, int64_t more) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckBytes(int64_t held, int64_t more) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ServerLimits limits_;
  mutable Mutex mutex_;
  Counts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nibble

// The engine: one model, one thread that steps it, any number of callers. The server and the cli know only this
// header, request.h and observer.h.
//
// Every method may be called from any thread. Submitted requests end exactly once, whatever happens: finished,
// cancelled, expired, drained, or failed together with the device.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/model/model_runner.h"
#include "engine/observer.h"
#include "engine/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace nibble {

struct EngineOptions {
  int32_t max_running = 64;         // sequences holding blocks at once; bounded by the runner's max_sequences
  int32_t max_batch_tokens = 512;   // token budget of one step; bounds how long a decode waits for a prefill
  bool prefix_cache = true;
  Duration pause_timeout = std::chrono::seconds(30);  // a paused (slow) client is cut off after this
  uint64_t seed = 0;                // of drawn seeds and of the prefix-cache key; 0: from the system
};

// Everything an engine is made of; the parts are owned by it from Create on. `clock` and `observer` are borrowed.
struct EngineParts {
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: chat prompts are refused by name
  const Clock* clock = nullptr;
  EngineObserver* observer = nullptr;  // may be null
};

struct EngineLoad {
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t paused = 0;            // of running, waiting for a slow client
  int32_t paused_waiting = 0;    // of waiting, the same: lost their blocks meanwhile
  int64_t queued_prompt_tokens = 0;
  int32_t blocks_in_use = 0;
  int32_t num_blocks = 0;
  int32_t block_size = 0;
  int64_t steps = 0;             // since start; moves while anything can run, or the engine is stuck
  int64_t layers = 0;            // the same within a step, where the runner counts them (model_runner.h)
  Duration step_time{};          // of the last step
  bool draining = false;
  absl::Status failure;          // not OK once the device failed: nothing will run any more
};

class Engine {
 public:
  // Starts the engine thread. INVALID_ARGUMENT when options and the runner's limits do not fit together.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(EngineParts parts, const EngineOptions& options);
  virtual ~Engine() = default;  // cancels what is left and joins the thread

  // Applies the chat template, tokenizes, checks every range and completes the defaults. Takes time proportional to
  // the prompt, on the caller's thread. INVALID_ARGUMENT carries the field's path as payload kFieldPayload.
  virtual absl::StatusOr<PreparedRequest> Prepare(GenerateRequest request) const = 0;

  // Hands a prepared request over. Always answers through the sink, also when draining (UNAVAILABLE).
  virtual RequestId Submit(PreparedRequest request, std::shared_ptr<TokenSink> sink) = 0;
  // The request ends CANCELLED within one step, unless it ended before. Unknown ids are ignored.
  virtual void Cancel(RequestId id) = 0;
  // The sink has room again.
  virtual void Resume(RequestId id) = 0;

  // Refuses new work from now on. What runs may finish until `timeout` has passed, then ends OK as kDrained; what is
  // queued and has not started by then ends UNAVAILABLE. Returns at once; Idle() tells when all is done.
  virtual void Drain(Duration timeout) = 0;
  virtual bool Idle() const = 0;

  virtual EngineLoad Load() const = 0;
  virtual std::string DumpState() const = 0;  // one line a sequence, no text of prompts; for operators

  virtual RunnerLimits limits() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ChatTemplate* chat_template() const = 0;
};

// Payload url of the request field an INVALID_ARGUMENT is about, for example "sampling.top_p".
inline constexpr char kFieldPayload[] = "nibble.field";

// Payload url of a fixed word that says why a request ended where its code does not.
inline constexpr char kReasonPayload[] = "nibble.reason";
// Of RESOURCE_EXHAUSTED: nothing was full, the client did not read; to try again would not help.
inline constexpr char kSlowClient[] = "slow_client";

// INVALID_ARGUMENT "<field>: <message>" with the payload set.
absl::Status FieldError(absl::string_view field, absl::string_view message);

}  // namespace nibble

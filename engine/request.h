// What a caller asks of the engine and what it gets back: plain values, no proto, no gRPC.
//
// Life of a request: Engine::Prepare (callback thread: template, tokenize, validate) -> Engine::Submit ->
// the sink hears OnStarted, then OnDelta any number of times, then OnFinished exactly once, all from the engine
// thread. A request that never starts (refused, cancelled or past its deadline while queued) hears only OnFinished; one
// that ends well hears OnStarted first, also where its time limit passed in the queue.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"

namespace nibble {

using RequestId = uint64_t;  // unique in one process; the wire form adds a random prefix

struct ChatMessage {
  std::string role;     // "system", "user", "assistant", or what the model's template knows
  std::string content;  // never parsed for special tokens
};

struct TextPrompt {
  std::string text;  // never parsed for special tokens
};
struct TokenPrompt {
  std::vector<int32_t> ids;  // used as they are: no BOS is added
};
struct ChatPrompt {
  std::vector<ChatMessage> messages;
};
using Prompt = std::variant<TextPrompt, TokenPrompt, ChatPrompt>;

// Defaults are the effective values when a caller says nothing. Ranges are checked by Validate (request.cc).
struct SamplingParams {
  float temperature = 1.0f;         // 0 (greedy) to 100
  int32_t top_k = 0;                // 0 off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // [kMinRepetitionPenalty, 10]
  float presence_penalty = 0.0f;    // [-10, 10]
  float frequency_penalty = 0.0f;   // [-10, 10]
  std::optional<uint64_t> seed;     // Prepare draws one when absent; the effective seed is always echoed
  std::vector<std::pair<int32_t, float>> logit_bias;  // at most kMaxLogitBias, ids unique, [-100, 100]
  std::vector<int32_t> allowed_token_ids;             // empty: all
};

struct StoppingParams {
  std::optional<int32_t> max_tokens;  // absent: until the context is full; 0 scores the prompt only
  int32_t min_tokens = 0;             // end-of-sequence and stop token ids are forbidden before
  std::vector<std::string> stop;      // at most kMaxStopStrings, each 1..kMaxStopBytes bytes
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;  // keep the matched stop string / stop token in the text
};

struct ResponseParams {
  int32_t logprobs = -1;         // -1 none, else 0..kMaxLogprobs alternatives
  int32_t prompt_logprobs = -1;  // the same, for every prompt position but the first
  bool echo = false;             // deliver the prompt's text before the completion's
};

// Limits of one request, each with its reason; what a deployment tunes is in EngineOptions.
inline constexpr float kMinRepetitionPenalty = 0.01f;  // logits are divided by it: 100 times as large at most
inline constexpr int32_t kMaxLogprobs = 20;        // what clients of other servers can ask for
inline constexpr int32_t kMaxLogitBias = 1024;     // applied per step, on the engine thread
inline constexpr int32_t kMaxAllowedIds = 65536;   // as above
inline constexpr int32_t kMaxStopStrings = 16;     // each is matched against every token
inline constexpr int32_t kMaxStopBytes = 256;      // text is held back for as long
inline constexpr int32_t kMaxStopTokenIds = 64;
inline constexpr int32_t kMaxChatMessages = 4096;
inline constexpr int32_t kMaxCacheSaltBytes = 256;

struct GenerateRequest {
  Prompt prompt;
  SamplingParams sampling;
  StoppingParams stopping;
  ResponseParams response;
  int32_t priority = 0;                // -100..100, higher first
  std::string cache_salt;              // prompts share cached blocks only under the same salt
  std::optional<Instant> deadline;     // DEADLINE_EXCEEDED after it
  std::optional<Duration> time_limit;  // from Submit: finishes OK with kDeadline and what there is
};

// A request whose prompt is tokens and whose parameters are checked and complete (seed, max_tokens set).
struct PreparedRequest {
  GenerateRequest params;  // prompt moved out of
  std::vector<int32_t> prompt_ids;
};

enum class FinishReason : uint8_t {
  kUnspecified,  // the call failed: see the status
  kEos,
  kStopSequence,
  kStopToken,
  kMaxTokens,
  kContextLength,
  kDeadline,
  kDrained,
};

enum class Stage : uint8_t { kQueued, kPrefill, kDecode };

absl::string_view StageName(Stage stage);  // "queued", "prefill", "decode"

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;      // of the prompt, found in the prefix cache
  int32_t completion_tokens = 0;  // generated, the stop token included
};

struct Timings {
  Duration queue{};        // Submit -> first scheduled
  Duration prefill{};      // first scheduled -> prompt done
  Duration first_token{};  // Submit -> first token; 0 when none
  Duration decode{};       // first token -> last token
  Duration total{};        // Submit -> finished
  int32_t preemptions = 0;
  int32_t recomputed_tokens = 0;
};

struct Logprob {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // most likely first
};

struct Started {
  RequestId id = 0;
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  GenerateRequest effective;  // prompt empty; seed and max_tokens set
};

// Only what is new. `text` is always whole UTF-8; it may lag behind `token_ids` (held back for a stop string or an
// unfinished character) and may be empty.
struct Delta {
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<Logprob> logprobs;                          // one a token id, when asked for
  std::vector<std::optional<Logprob>> prompt_logprobs;    // in the first delta, when asked for; [0] is absent
};

struct Outcome {
  absl::Status status;  // OK exactly when finish_reason is set
  FinishReason finish_reason = FinishReason::kUnspecified;
  Stage stage = Stage::kQueued;  // where it was when it ended
  std::string matched_stop;      // the stop string, for kStopSequence
  int32_t matched_token = -1;    // the id, for kStopToken and kEos
  Usage usage;
  Timings timings;
};

// Where results go. Called by the engine thread only, so it must not block: copy, notify, return.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  enum class Room : uint8_t {
    kReady,
    kFull,  // what is buffered passed the bound: the sequence is paused until Engine::Resume(id)
  };
  virtual void OnStarted(const Started& started) = 0;
  virtual Room OnDelta(Delta delta) = 0;
  virtual void OnFinished(const Outcome& outcome) = 0;  // exactly once, the last call
};

// Checks every range above, NaN included. INVALID_ARGUMENT as FieldError (engine.h) makes it: field, value, range. Does
// not look into the prompt beyond its counts; token ids must be below `vocab_size`.
absl::Status Validate(const GenerateRequest& request, int32_t vocab_size);

}  // namespace nibble

// One request as the scheduler sees it: its tokens, where their keys and values are, and what has
// happened to it so far. Plain data of the engine thread; Scheduler alone writes it after Submit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/base/clock.h"
#include "engine/request.h"
#include "engine/scheduling/prefix_cache.h"

namespace nibble {

// Why a sequence is complete.
struct Ending {
  FinishReason reason = FinishReason::kUnspecified;
  int32_t matched_token = -1;  // for kEos and kStopToken
  std::string matched_stop;    // for kStopSequence, which only the text stream can find
};

struct Sequence {
  // `end_ids` end a generation unless the request ignores them. REQUIRES a request made by Prepare.
  Sequence(RequestId id, PreparedRequest request, absl::Span<const int32_t> end_ids,
           Instant submitted);

  RequestId id;  // also the order of arrival
  GenerateRequest params;
  int32_t prompt_length;
  Instant submitted;
  std::vector<int32_t> end_ids;   // what ends it as kEos
  std::vector<int32_t> stop_ids;  // end_ids and the caller's own: forbidden before min_tokens

  std::vector<int32_t> tokens;  // the prompt, then what was generated
  std::vector<int32_t>
      block_table;  // blocks of the KV cache, in order; empty exactly when not running
  BlockNames names;
  int32_t num_computed = 0;   // tokens whose keys and values are in block_table
  int32_t num_scheduled = 0;  // tokens of the step under way
  int32_t num_published = 0;  // blocks offered to the prefix cache, or found there
  int32_t prompt_scored = 0;  // prompt positions whose logprob came back
  int32_t most_computed = 0;  // before the last preemption too: computing below it is recomputing

  bool running = false;  // holds blocks
  bool paused = false;   // its client is slow: not scheduled
  Instant paused_since{};
  std::optional<Instant> first_scheduled;
  std::optional<Instant> prompt_done;
  std::optional<Instant> first_token;
  Instant last_token{};
  int32_t cached_tokens = 0;
  int32_t preemptions = 0;
  int32_t recomputed_tokens = 0;

  int32_t num_known() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return num_known() - prompt_length; }
  int32_t num_missing() const { return num_known() - num_computed; }  // 1: an ordinary decode step
  int32_t max_tokens() const { return *params.stopping.max_tokens; }

  // The prompt positions that still have to be scored begin here; a cached block must not hide
  // them.
  int32_t first_needed() const;
  absl::Span<const int32_t> forbidden() const;
  // After the newest token, or after the prompt when nothing is to be generated. A full context is
  // named as such even if max_tokens is reached with the same token: a request without max_tokens
  // got the rest of the context as its own.
  std::optional<Ending> FindEnding(int32_t max_context) const;

  Stage stage() const;
  Usage usage() const;
  Timings timings(Instant now) const;
};

// Who goes first: higher priority, then earlier arrival.
struct GoesFirst {
  bool operator()(const Sequence* a, const Sequence* b) const {
    if (a->params.priority != b->params.priority) return a->params.priority > b->params.priority;
    return a->id < b->id;
  }
};

}  // namespace nibble

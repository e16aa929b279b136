#include "engine/scheduling/sequence.h"

#include <algorithm>

namespace nibble {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Sequence::Sequence(RequestId id, PreparedRequest request, absl::Span<const int32_t> end_ids,
                   Instant submitted)
    : id(id),
      params(std::move(request.params)),
      prompt_length(static_cast<int32_t>(request.prompt_ids.size())),
      submitted(submitted),
      tokens(std::move(request.prompt_ids)) {
  if (!params.stopping.ignore_eos) this->end_ids.assign(end_ids.begin(), end_ids.end());
  stop_ids = this->end_ids;
  for (int32_t stop : params.stopping.stop_token_ids) {
    if (!Contains(stop_ids, stop)) stop_ids.push_back(stop);
  }
}

int32_t Sequence::first_needed() const {
  const bool scoring = params.response.prompt_logprobs >= 0 && prompt_scored + 1 < prompt_length;
  return scoring ? prompt_scored : num_known() - 1;
}

absl::Span<const int32_t> Sequence::forbidden() const {
  if (num_generated() >= params.stopping.min_tokens) return {};
  return stop_ids;
}

std::optional<Ending> Sequence::FindEnding(int32_t max_context) const {
  if (num_generated() > 0) {
    const int32_t last = tokens.back();
    if (Contains(end_ids, last)) return Ending{FinishReason::kEos, last, ""};
    if (Contains(stop_ids, last)) return Ending{FinishReason::kStopToken, last, ""};
    if (num_known() >= max_context) return Ending{FinishReason::kContextLength, -1, ""};
  }
  if (num_generated() >= max_tokens()) return Ending{FinishReason::kMaxTokens, -1, ""};
  return std::nullopt;
}

Stage Sequence::stage() const {
  if (!first_scheduled) return Stage::kQueued;
  return prompt_done ? Stage::kDecode : Stage::kPrefill;
}

Usage Sequence::usage() const { return {prompt_length, cached_tokens, num_generated()}; }

Timings Sequence::timings(Instant now) const {
  Timings t;
  t.queue = first_scheduled.value_or(now) - submitted;
  if (first_scheduled) t.prefill = prompt_done.value_or(now) - *first_scheduled;
  if (first_token) {
    t.first_token = *first_token - submitted;
    t.decode = last_token - *first_token;
  }
  t.total = now - submitted;
  t.preemptions = preemptions;
  t.recomputed_tokens = recomputed_tokens;
  return t;
}

}  // namespace nibble

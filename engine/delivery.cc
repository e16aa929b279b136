#include "engine/delivery.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

// Whether the completion's text goes on with that of the prompt, which may have none (BOS alone).
bool ContinuesPrompt(const Tokenizer& tokenizer, const Sequence& sequence) {
  const GenerateRequest& params = sequence.params;
  if (std::holds_alternative<ChatPrompt>(params.prompt) && !params.response.echo) return false;
  return std::any_of(sequence.tokens.begin(), sequence.tokens.end(),
                     [&](int32_t id) { return !tokenizer.TokenBytes(id).empty(); });
}

}  // namespace

Delivery::Delivery(std::shared_ptr<TokenSink> sink, const Tokenizer& tokenizer,
                   const Sequence& sequence)
    : sink_(std::move(sink)),
      tokenizer_(&tokenizer),
      text_(tokenizer, sequence.params.stopping.stop, sequence.params.stopping.include_stop,
            ContinuesPrompt(tokenizer, sequence)) {}

void Delivery::Start(const Sequence& sequence) {
  sink_->OnStarted({sequence.id, sequence.prompt_length, sequence.cached_tokens, sequence.params});
}

void Delivery::AddPromptLogprobs(std::vector<Logprob> scored) {
  if (scored.empty()) return;
  if (prompt_logprobs_.empty()) prompt_logprobs_.emplace_back();
  for (Logprob& logprob : scored) prompt_logprobs_.emplace_back(std::move(logprob));
}

// Echo and prompt logprobs belong before the first generated token and nowhere else.
Delta Delivery::FirstDelta(const Sequence& sequence) {
  Delta delta;
  if (std::exchange(delivered_, true)) return delta;
  const ResponseParams& response = sequence.params.response;
  if (response.echo) {
    const absl::Span<const int32_t> tokens = sequence.tokens;
    const auto text =
        tokenizer_->Decode(tokens.first(sequence.prompt_length), /*with_special=*/false);
    if (text.ok()) delta.text = *text;
  }
  if (response.prompt_logprobs >= 0 && prompt_logprobs_.empty()) prompt_logprobs_.emplace_back();
  delta.prompt_logprobs = std::exchange(prompt_logprobs_, {});
  return delta;
}

std::string Delivery::TextOf(int32_t token, const StoppingParams& stopping,
                             std::optional<Ending>& ending) {
  const bool ended_by_token = ending && ending->matched_token >= 0;
  if (ended_by_token) {
    const bool keep = ending->reason == FinishReason::kStopToken && stopping.include_stop;
    if (!keep) return text_.Finish();
    if (tokenizer_->IsSpecial(token)) {
      const absl::string_view bytes = tokenizer_->TokenBytes(token, /*with_special=*/true);
      return absl::StrCat(text_.Finish(), bytes);
    }
  }
  TextStream::Step step = text_.Append(token);
  if (step.stop_index >= 0) {
    if (!ended_by_token) {
      ending = Ending{FinishReason::kStopSequence, -1, stopping.stop[step.stop_index]};
    }
    return std::move(step.text);
  }
  if (ending) step.text += text_.Finish();
  return std::move(step.text);
}

TokenSink::Room Delivery::AddToken(const Sequence& sequence, const Logprob& sampled,
                                   std::optional<Ending>& ending) {
  Delta delta = FirstDelta(sequence);
  delta.text += TextOf(sampled.id, sequence.params.stopping, ending);
  delta.token_ids.push_back(sampled.id);
  if (sequence.params.response.logprobs >= 0) delta.logprobs.push_back(sampled);
  return sink_->OnDelta(std::move(delta));
}

void Delivery::EndPrompt(const Sequence& sequence) {
  Delta delta = FirstDelta(sequence);
  if (!delta.text.empty() || !delta.prompt_logprobs.empty()) sink_->OnDelta(std::move(delta));
}

void Delivery::Flush() {
  Delta delta;
  delta.text = text_.Finish();
  if (!delta.text.empty()) sink_->OnDelta(std::move(delta));
}

}  // namespace nibble

// One request's way out: its tokens become text, its text, tokens and logprobs become deltas for
// the sink. Knows the rules of what a client sees; nothing about scheduling. The engine thread
// only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "engine/request.h"
#include "engine/scheduling/sequence.h"
#include "engine/text/text_stream.h"
#include "engine/text/tokenizer.h"

namespace nibble {

class Delivery {
 public:
  // `tokenizer` must outlive this. The completion of a text, and any that comes after its echo, is
  // what follows the prompt in one text, its first space included; the answer to a chat is a text
  // of its own. `sequence` has nothing generated yet.
  Delivery(std::shared_ptr<TokenSink> sink, const Tokenizer& tokenizer, const Sequence& sequence);

  void Start(const Sequence& sequence);
  // Keeps them for the first delta, after an absent one for position 0.
  void AddPromptLogprobs(std::vector<Logprob> scored);

  // Delivers the newest token of `sequence`. `ending` is what the tokens say; a stop string found
  // in the text takes its place, unless a token ended the generation already. An ending token's own
  // text is delivered only where include_stop asks for it, and never that of an end-of-sequence
  // token.
  TokenSink::Room AddToken(const Sequence& sequence, const Logprob& sampled,
                           std::optional<Ending>& ending);
  // The prompt alone, when nothing is to be generated.
  void EndPrompt(const Sequence& sequence);
  // What was held back, when time rather than a token ends the generation.
  void Flush();

  const std::shared_ptr<TokenSink>& sink() const { return sink_; }

 private:
  Delta FirstDelta(const Sequence& sequence);
  std::string TextOf(int32_t token, const StoppingParams& stopping, std::optional<Ending>& ending);

  std::shared_ptr<TokenSink> sink_;
  const Tokenizer* tokenizer_;
  TextStream text_;
  bool delivered_ = false;
  std::vector<std::optional<Logprob>> prompt_logprobs_;
};

}  // namespace nibble

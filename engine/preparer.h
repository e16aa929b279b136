// From what a caller asked to what the engine runs: template, tokens, ranges, defaults. Stateless
// but for the counter its seeds come from; any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_runner.h"
#include "engine/request.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace nibble {

class Preparer {
 public:
  // `tokenizer` and `chat_template` (null: chat prompts are refused) must outlive this. Equal seeds
  // draw equal seeds.
  Preparer(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
           const RunnerLimits& limits, uint64_t seed);

  // As Engine::Prepare. Of the prompt, params keep the kind: Delivery asks for it. A text that
  // could not fit however it is tokenized is refused before it is tokenized.
  absl::StatusOr<PreparedRequest> Prepare(GenerateRequest request) const;

 private:
  absl::StatusOr<std::vector<int32_t>> Tokenize(Prompt prompt) const;
  absl::StatusOr<std::vector<int32_t>> TokenizeText(const TextPrompt& prompt) const;
  absl::StatusOr<std::vector<int32_t>> TokenizeChat(const ChatPrompt& prompt) const;
  absl::Status CheckBytes(absl::string_view field, size_t num_bytes) const;
  absl::Status CheckFits(absl::string_view field, size_t num_tokens, bool generates) const;
  absl::Status CheckSomethingAllowed(const GenerateRequest& request) const;

  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_template_;
  RunnerLimits limits_;
  uint64_t seed_;
  mutable std::atomic<uint64_t> num_drawn_{0};
  std::vector<std::string> special_tokens_;  // what message content must not smuggle in
  int64_t max_prompt_bytes_ = 0;             // a longer text has more tokens than the context
};

}  // namespace nibble

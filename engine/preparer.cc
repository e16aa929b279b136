#include "engine/preparer.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_cat.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/engine.h"

namespace nibble {
namespace {

absl::string_view FieldOf(const Prompt& prompt) {
  if (std::holds_alternative<TokenPrompt>(prompt)) return "token_ids";
  return std::holds_alternative<ChatPrompt>(prompt) ? "chat" : "text";
}

bool Contains(absl::Span<const int32_t> ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Preparer::Preparer(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                   const RunnerLimits& limits, uint64_t seed)
    : tokenizer_(tokenizer),
      chat_template_(chat_template),
      limits_(limits),
      seed_(seed),
      special_tokens_(SpecialTokenTexts(tokenizer)) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(id, /*with_special=*/true).size());
  }
  max_prompt_bytes_ = static_cast<int64_t>(longest) * limits.max_context;
}

absl::StatusOr<PreparedRequest> Preparer::Prepare(GenerateRequest request) const {
  NIBBLE_RETURN_IF_ERROR(Validate(request, limits_.vocab_size));
  NIBBLE_RETURN_IF_ERROR(CheckSomethingAllowed(request));
  const std::string field(FieldOf(request.prompt));
  PreparedRequest prepared;
  NIBBLE_ASSIGN_OR_RETURN(prepared.prompt_ids, Tokenize(std::move(request.prompt)));
  std::visit([](auto& prompt) { prompt = {}; }, request.prompt);
  std::optional<int32_t>& max_tokens = request.stopping.max_tokens;
  NIBBLE_RETURN_IF_ERROR(CheckFits(field, prepared.prompt_ids.size(), max_tokens.value_or(1) > 0));
  // What is asked beyond the context could not be generated, and is not said to be in force.
  const int32_t room = limits_.max_context - static_cast<int32_t>(prepared.prompt_ids.size());
  max_tokens = std::min(max_tokens.value_or(room), room);
  if (!request.sampling.seed) request.sampling.seed = Scatter(seed_ + num_drawn_.fetch_add(1));
  prepared.params = std::move(request);
  return prepared;
}

absl::StatusOr<std::vector<int32_t>> Preparer::Tokenize(Prompt prompt) const {
  if (auto* tokens = std::get_if<TokenPrompt>(&prompt)) return std::move(tokens->ids);
  const std::string field(FieldOf(prompt));
  const auto* chat = std::get_if<ChatPrompt>(&prompt);
  absl::StatusOr<std::vector<int32_t>> ids =
      chat != nullptr ? TokenizeChat(*chat) : TokenizeText(std::get<TextPrompt>(prompt));
  if (absl::IsInvalidArgument(ids.status()) && !ids.status().GetPayload(kFieldPayload)) {
    return FieldError(field, ids.status().message());
  }
  if (!ids.ok()) return ids;
  if (ids->empty()) return FieldError(field, "is empty, needed at least one token");
  const int32_t highest = *std::max_element(ids->begin(), ids->end());
  if (highest >= limits_.vocab_size) {
    return FieldError(
        field, absl::StrCat("gives token id ", highest, ", the model has ", limits_.vocab_size));
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Preparer::TokenizeText(const TextPrompt& prompt) const {
  NIBBLE_RETURN_IF_ERROR(CheckBytes("text", prompt.text.size()));
  return tokenizer_.Encode(prompt.text, {.parse_special = false, .add_special = true});
}

absl::StatusOr<std::vector<int32_t>> Preparer::TokenizeChat(const ChatPrompt& prompt) const {
  if (chat_template_ == nullptr) {
    return FieldError("chat", "the model has no chat template; send text or token_ids");
  }
  size_t num_bytes = 0;
  for (const ChatMessage& message : prompt.messages) {
    num_bytes += message.role.size() + message.content.size();
  }
  NIBBLE_RETURN_IF_ERROR(CheckBytes("chat", num_bytes));
  absl::StatusOr<RenderedChat> rendered =
      chat_template_->Apply(prompt.messages, /*add_generation_prompt=*/true, special_tokens_);
  if (absl::IsInvalidArgument(rendered.status()) || absl::IsResourceExhausted(rendered.status())) {
    return FieldError("chat", rendered.status().message());  // it is these messages that break it
  }
  if (!rendered.ok()) return rendered.status();
  return tokenizer_.EncodeRendered(rendered->text, rendered->guard);
}

absl::Status Preparer::CheckBytes(absl::string_view field, size_t num_bytes) const {
  if (num_bytes <= static_cast<size_t>(max_prompt_bytes_)) return absl::OkStatus();
  return FieldError(
      field, absl::StrCat("is ", num_bytes, " bytes, the context of ", limits_.max_context,
                          " tokens holds at most ", max_prompt_bytes_, "; send a shorter prompt"));
}

absl::Status Preparer::CheckFits(absl::string_view field, size_t num_tokens, bool generates) const {
  const int64_t cache_tokens = int64_t{limits_.num_blocks} * limits_.block_size;
  const int64_t most = std::min<int64_t>(limits_.max_context - (generates ? 1 : 0), cache_tokens);
  if (static_cast<int64_t>(num_tokens) <= most) return absl::OkStatus();
  return FieldError(
      field, absl::StrCat("is ", num_tokens, " tokens, needed at most ", most, " (the context is ",
                          limits_.max_context, " tokens, the cache holds ", cache_tokens,
                          generates ? ", and one must be left to generate" : "",
                          "); send a shorter prompt"));
}

// A generation that may neither end nor go on has no next token.
absl::Status Preparer::CheckSomethingAllowed(const GenerateRequest& request) const {
  const std::vector<int32_t>& allowed = request.sampling.allowed_token_ids;
  const StoppingParams& stopping = request.stopping;
  if (stopping.min_tokens == 0 || allowed.empty()) return absl::OkStatus();
  for (int32_t id : allowed) {
    const bool ends = !stopping.ignore_eos && Contains(tokenizer_.end_of_generation_ids(), id);
    if (!ends && !Contains(stopping.stop_token_ids, id)) return absl::OkStatus();
  }
  return FieldError("stopping.min_tokens",
                    absl::StrCat("is ", stopping.min_tokens, ", but every id of ",
                                 "sampling.allowed_token_ids ends the generation; allow another"));
}

}  // namespace nibble

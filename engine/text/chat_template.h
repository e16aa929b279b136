// The model file's own chat template (Jinja), rendered by minijinja with limits on source size,
// output size, steps (fuel) and depth: the file is untrusted. Immutable after Create and safe to
// share.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/request.h"

namespace nibble {

inline constexpr int32_t kMaxTemplateBytes = 1 << 20;   // the longest in the wild are under 100 KiB
inline constexpr int32_t kMaxRenderedBytes = 64 << 20;  // above any context this program can hold
inline constexpr int64_t kTemplateFuel =
    10'000'000;  // interpreter steps; real templates use under 100 a message
inline constexpr int32_t kTemplateDepth = 64;  // of macro calls; real templates nest two or three

struct ChatTemplateOptions {
  std::string bos_token;  // text of the token, "" for none
  std::string eos_token;
  std::optional<int64_t>
      now_unix_seconds;  // what strftime_now shows, as UTC; absent: the system clock's
};

struct RenderedChat {
  std::string text;
  std::string guard;  // one character that stands in the text after the first character of every
                      // control-token-like string that came from a message, so it is not parsed;
                      // Tokenizer::EncodeRendered removes it. Empty when there is none in the text
};

class ChatTemplate {
 public:
  // INVALID_ARGUMENT with the line for a template that does not parse; UNIMPLEMENTED names a
  // construct, filter or function it cannot render (found by trial renderings); RESOURCE_EXHAUSTED
  // names the limit the trials met. A template may refuse the trials with its own raise_exception.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(absl::string_view source,
                                                              const ChatTemplateOptions& options);
  virtual ~ChatTemplate() = default;

  // `special_tokens` are the texts that must not be smuggled in by message content.
  // Templates see tools and documents as none.
  // INVALID_ARGUMENT carries the template's own raise_exception message; RESOURCE_EXHAUSTED names
  // the limit. Fuel bounds the steps and the output limit bounds the text, but values a template
  // builds in between (a string doubled in a loop) are bounded by neither.
  virtual absl::StatusOr<RenderedChat> Apply(
      absl::Span<const ChatMessage> messages, bool add_generation_prompt,
      absl::Span<const std::string> special_tokens) const = 0;
  virtual absl::string_view source() const = 0;
};

}  // namespace nibble

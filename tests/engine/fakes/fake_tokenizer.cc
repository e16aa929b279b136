#include "tests/engine/fakes/fake_tokenizer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/status_macros.h"

namespace nibble {

FakeTokenizer::FakeTokenizer(bool strips_first_space) : strips_first_space_(strips_first_space) {
  for (int b = 0; b < 256; ++b) tokens_.emplace_back(1, static_cast<char>(b));
  for (const char* special : {"<s>", "</s>", "<|end|>", "<|user|>"}) tokens_.emplace_back(special);
}

absl::StatusOr<std::vector<int32_t>> FakeTokenizer::Encode(absl::string_view text,
                                                           EncodeOptions options) const {
  std::vector<int32_t> ids;
  if (options.add_special) ids.push_back(kBos);
  for (size_t i = 0; i < text.size();) {
    int32_t id = static_cast<uint8_t>(text[i]);
    if (id >= 0xf8) {  // never in UTF-8: enough of a check to test the error's road
      return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", i));
    }
    for (int32_t special = kBos; options.parse_special && special < kVocabSize; ++special) {
      if (absl::StartsWith(text.substr(i), tokens_[special])) id = special;
    }
    ids.push_back(id);
    i += tokens_[id].size();
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> FakeTokenizer::EncodeRendered(absl::string_view rendered,
                                                                   absl::string_view guard) const {
  NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> marked, Encode(rendered, {.parse_special = true}));
  std::vector<int32_t> ids;
  for (int32_t id : marked) {
    if (guard.empty() || id != static_cast<uint8_t>(guard[0])) ids.push_back(id);
  }
  return ids;
}

absl::string_view FakeTokenizer::TokenBytes(int32_t id, bool with_special) const {
  return IsSpecial(id) && !with_special ? absl::string_view() : absl::string_view(tokens_[id]);
}

absl::StatusOr<std::string> FakeTokenizer::Decode(absl::Span<const int32_t> ids,
                                                  bool with_special) const {
  std::string text;
  bool is_first = strips_first_space_;
  for (int32_t id : ids) {
    if (id < 0 || id >= kVocabSize) return absl::OutOfRangeError(absl::StrCat("token id ", id));
    if (!IsSpecial(id) && std::exchange(is_first, false) && id == ' ') continue;
    absl::StrAppend(&text, TokenBytes(id, with_special));
  }
  return text;
}

absl::StatusOr<RenderedChat> FakeChatTemplate::Apply(
    absl::Span<const ChatMessage> messages, bool add_generation_prompt,
    absl::Span<const std::string> special_tokens) const {
  RenderedChat out{"", "\x01"};
  for (const ChatMessage& message : messages) {
    if (message.role == "refused") return absl::InvalidArgumentError("role 'refused' is not known");
    std::string content = message.content;
    for (const std::string& special : special_tokens) {
      std::string guarded = special;
      guarded.insert(1, out.guard);
      content = absl::StrReplaceAll(content, {{special, guarded}});
    }
    absl::StrAppend(&out.text, "<|user|>", content, "<|end|>");
  }
  if (add_generation_prompt) absl::StrAppend(&out.text, "<|user|>");
  return out;
}

}  // namespace nibble

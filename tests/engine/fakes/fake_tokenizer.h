// A vocabulary of bytes with a few control tokens, and a chat template to go with it: text in, the
// same text out, with nothing loaded from a file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace nibble {

// Ids 0..255 are the bytes; 256 "<s>" (BOS), 257 "</s>" (EOS), 258 "<|end|>" (also ends a
// generation), 259 "<|user|>".
class FakeTokenizer final : public Tokenizer {
 public:
  static constexpr int32_t kBos = 256;
  static constexpr int32_t kEos = 257;
  static constexpr int32_t kEnd = 258;
  static constexpr int32_t kUser = 259;
  static constexpr int32_t kVocabSize = 260;

  explicit FakeTokenizer(bool strips_first_space = false);

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              EncodeOptions options) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeRendered(absl::string_view rendered,
                                                      absl::string_view guard) const override;
  absl::string_view TokenBytes(int32_t id, bool with_special = false) const override;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool with_special) const override;

  int32_t vocab_size() const override { return kVocabSize; }
  int32_t bos_id() const override { return kBos; }
  int32_t eos_id() const override { return kEos; }
  absl::Span<const int32_t> end_of_generation_ids() const override { return end_ids_; }
  bool IsSpecial(int32_t id) const override { return id >= kBos; }
  bool strips_first_space() const override { return strips_first_space_; }

 private:
  const bool strips_first_space_;
  std::vector<std::string> tokens_;
  std::vector<int32_t> end_ids_ = {kEos, kEnd};
};

// "<|user|>hello<|end|>" a message, whatever the role.
class FakeChatTemplate final : public ChatTemplate {
 public:
  absl::StatusOr<RenderedChat> Apply(absl::Span<const ChatMessage> messages,
                                     bool add_generation_prompt,
                                     absl::Span<const std::string> special_tokens) const override;
  absl::string_view source() const override { return "fake"; }
};

}  // namespace nibble

#include "engine/model_file.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

// The errors of text/ know no file.
absl::Status Named(const GgufFile& file, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(file.name(), ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file) {
  NIBBLE_ASSIGN_OR_RETURN(TokenizerSpec spec, ReadTokenizerSpec(file));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(std::move(spec));
  if (!tokenizer.ok()) return Named(file, tokenizer.status());
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const GgufFile& file,
                                                               const Tokenizer& tokenizer) {
  constexpr absl::string_view kKey = "tokenizer.chat_template";
  if (!file.Has(kKey)) return nullptr;
  NIBBLE_ASSIGN_OR_RETURN(const std::string source, file.GetString(kKey));
  const auto text_of = [&](int32_t id) {
    return id < 0 ? std::string() : std::string(tokenizer.TokenBytes(id, /*with_special=*/true));
  };
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat = ChatTemplate::Create(
      source, {.bos_token = text_of(tokenizer.bos_id()), .eos_token = text_of(tokenizer.eos_id())});
  if (!chat.ok()) return Named(file, chat.status());
  return chat;
}

}  // namespace nibble

// Keeps control tokens that users write from becoming control tokens: a guard character goes into
// every place of a message where a special token's text stands, or where it could be completed by
// what a template puts around it. The tokenizer takes the guards out again after it has looked for
// special tokens, so no character of the message changes.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/request.h"

namespace nibble {

// One private-use character, as UTF-8, that no message, no special token and no template contains.
// INVALID_ARGUMENT if the messages use up all 71,932 of them.
absl::StatusOr<std::string> ChooseGuard(absl::Span<const ChatMessage> messages,
                                        absl::Span<const std::string> special_tokens,
                                        absl::string_view source);

class Guard {
 public:
  // Borrows all three. Cost: the special tokens sorted.
  Guard(absl::string_view character, absl::Span<const std::string> special_tokens);

  // `text` with the guard after the first character of
  //  - every occurrence of a special token,
  //  - what at its end (before white space, which templates trim) begins a special token,
  //  - what at its beginning ends one.
  // Cost: proportional to text.size() times the length of the prefix that special tokens have in
  // common.
  std::string Content(absl::string_view text) const;

  // The same for a role; and one that is not a usual role name is guarded where it could stand
  // inside of a special token: templates write "<|" + role + "|>", which a role "endoftext" would
  // complete.
  std::string Role(absl::string_view role) const;

 private:
  bool StartsAt(absl::string_view text,
                size_t at) const;  // a whole special token, or one cut short by the text's end
  size_t FirstCharacterEnd(absl::string_view text, size_t at) const;
  bool EndsSpecial(absl::string_view text) const;
  std::string Mark(absl::string_view text, bool mark_first) const;

  absl::string_view character_;
  std::vector<absl::string_view> sorted_;
  std::array<std::pair<uint32_t, uint32_t>, 256> by_first_byte_ = {};  // [begin, end) into sorted_
};

}  // namespace nibble

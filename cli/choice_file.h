// Multiple-choice questions from a file, one JSON object a line.
//
//   {"ctx": "A man sits down. He", "endings": ["plays.", "is a door."], "label": 0}
//
// As HellaSwag's published files have it: label may be a string, and an object with
// "activity_label", "ctx_a" and "ctx_b" is put together and cleaned as EleutherAI's harness does it
// (the label before the context, ctx_b's first letter upper case and the others lower, " [title]" a
// full stop, other text in [brackets] left out, two spaces one).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble {

inline constexpr int64_t kMaxChoiceLineBytes = 1 << 20;  // far above any question's
inline constexpr int32_t kMaxChoices = 64;

struct ChoiceText {
  std::string context;
  std::vector<std::string> endings;  // without a space before them
  int32_t answer = 0;
};

// INVALID_ARGUMENT names what is missing or wrong, and how long the line may be.
absl::StatusOr<ChoiceText> ParseChoiceLine(absl::string_view line);

// The first `limit` questions (0: all); empty lines are skipped. NOT_FOUND for a file that cannot
// be opened or holds none; INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<ChoiceText>> ReadChoiceFile(const std::string& path, int64_t limit);

}  // namespace nibble

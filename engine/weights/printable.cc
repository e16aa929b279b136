#include "engine/weights/printable.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/utf8_character.h"

namespace nibble {
namespace {

constexpr size_t kMaxQuotedBytes = 120;  // one line on a terminal

}  // namespace

bool IsPrintableName(absl::string_view text, uint64_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7E; });
}

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t bytes = Utf8CharacterBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string QuoteForMessage(absl::string_view text) {
  size_t shown = 0;
  while (shown < text.size()) {
    const size_t bytes = Utf8CharacterBytes(text.substr(shown));
    if (bytes == 0)
      return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMaxQuotedBytes)), "\"");
    if (shown + bytes > kMaxQuotedBytes) break;
    shown += bytes;
  }
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, shown)), "\"",
                      shown < text.size() ? "..." : "");
}

}  // namespace nibble

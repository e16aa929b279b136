#include "engine/weights/printable.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

constexpr size_t kMaxQuotedBytes = 120;  // one line on a terminal

// Bytes of the character that starts at text[0], or 0 when it is broken.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  // The second byte's range excludes overlong forms, surrogates and what is above U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

bool IsPrintableName(absl::string_view text, uint64_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7E; });
}

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string QuoteForMessage(absl::string_view text) {
  size_t shown = 0;
  while (shown < text.size()) {
    const size_t bytes = CharacterBytes(text.substr(shown));
    if (bytes == 0)
      return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kMaxQuotedBytes)), "\"");
    if (shown + bytes > kMaxQuotedBytes) break;
    shown += bytes;
  }
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, shown)), "\"",
                      shown < text.size() ? "..." : "");
}

}  // namespace nibble

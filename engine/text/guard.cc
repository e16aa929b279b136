#include "engine/text/guard.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace nibble {
namespace {

// The private-use planes: the BMP's is enough unless a message is made to exhaust it.
struct Range {
  uint32_t first, last;
};
constexpr Range kPrivateUse[] = {{0xE000, 0xF8FF}, {0xF0000, 0xFFFFD}};

std::string Utf8Of(uint32_t code) {
  std::string out;
  if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
  }
  out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
  out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  return out;
}

// The characters of three and four bytes in `text` are noted; others cannot be private-use.
void NoteUsed(absl::string_view text, std::vector<bool>& used) {
  for (size_t at = 0; at + 2 < text.size(); ++at) {
    const auto first = static_cast<uint8_t>(text[at]);
    if (first < 0xEE) continue;
    const auto low = [&](size_t i) {
      return static_cast<uint32_t>(static_cast<uint8_t>(text[at + i]) & 0x3F);
    };
    if (first < 0xF0) {
      used[(first & 0x0F) << 12 | low(1) << 6 | low(2)] = true;
    } else if (first == 0xF3 && at + 3 < text.size()) {
      const uint32_t code = 3u << 18 | low(1) << 12 | low(2) << 6 | low(3);
      if (code < used.size()) used[code] = true;
    }
  }
}

constexpr absl::string_view kUsualRoles[] = {"system",   "user",      "assistant",
                                             "tool",     "developer", "model",
                                             "function", "ipython",   "observation"};

}  // namespace

absl::StatusOr<std::string> ChooseGuard(absl::Span<const ChatMessage> messages,
                                        absl::Span<const std::string> special_tokens,
                                        absl::string_view source) {
  std::vector<bool> used(0x100000);
  NoteUsed(source, used);
  for (const std::string& token : special_tokens) NoteUsed(token, used);
  for (const ChatMessage& message : messages) {
    NoteUsed(message.role, used);
    NoteUsed(message.content, used);
  }
  for (const auto& [first, last] : kPrivateUse) {
    for (uint32_t code = first; code <= last; ++code) {
      if (!used[code]) return Utf8Of(code);
    }
  }
  return absl::InvalidArgumentError(
      "messages: every private-use character of Unicode occurs, one has to be free");
}

Guard::Guard(absl::string_view character, absl::Span<const std::string> special_tokens)
    : character_(character) {
  for (const std::string& token : special_tokens) {
    if (!token.empty()) sorted_.push_back(token);
  }
  std::sort(sorted_.begin(), sorted_.end());
  for (uint32_t i = 0; i < sorted_.size(); ++i) {
    auto& [begin, end] = by_first_byte_[static_cast<uint8_t>(sorted_[i].front())];
    if (end == 0) begin = i;
    end = i + 1;
  }
}

bool Guard::StartsAt(absl::string_view text, size_t at) const {
  auto [begin, end] = by_first_byte_[static_cast<uint8_t>(text[at])];
  for (size_t depth = 1; begin < end; ++depth) {
    if (sorted_[begin].size() == depth) return true;  // the shortest of the range sorts first
    if (at + depth == text.size()) return true;
    const char next = text[at + depth];
    const auto less = [depth](absl::string_view token, char byte) {
      return static_cast<uint8_t>(token[depth]) < static_cast<uint8_t>(byte);
    };
    const auto more = [depth](char byte, absl::string_view token) {
      return static_cast<uint8_t>(byte) < static_cast<uint8_t>(token[depth]);
    };
    const auto low = std::lower_bound(sorted_.begin() + begin, sorted_.begin() + end, next, less);
    const auto high = std::upper_bound(low, sorted_.begin() + end, next, more);
    begin = static_cast<uint32_t>(low - sorted_.begin());
    end = static_cast<uint32_t>(high - sorted_.begin());
  }
  return false;
}

size_t Guard::FirstCharacterEnd(absl::string_view text, size_t at) const {
  size_t end = at + 1;
  while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
  return end;
}

bool Guard::EndsSpecial(absl::string_view text) const {
  for (const absl::string_view token : sorted_) {
    // One character alone cannot be broken up; and what remains of the token must be of the
    // template's making.
    for (size_t size = FirstCharacterEnd(text, 0) + 1; size < token.size() && size <= text.size();
         ++size) {
      if (absl::EndsWith(token, text.substr(0, size))) return true;
    }
  }
  return false;
}

std::string Guard::Mark(absl::string_view text, bool mark_first) const {
  const absl::string_view trimmed = absl::StripTrailingAsciiWhitespace(text);
  std::string out;
  size_t copied = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const bool is_candidate = by_first_byte_[static_cast<uint8_t>(text[at])].second > 0;
    const bool is_marked =
        is_candidate && (StartsAt(text, at) || (at < trimmed.size() && StartsAt(trimmed, at)));
    if (!is_marked && !(mark_first && at == 0)) continue;
    const size_t end = FirstCharacterEnd(text, at);
    out.append(text.data() + copied, end - copied);
    out.append(character_.data(), character_.size());
    copied = end;
  }
  out.append(text.data() + copied, text.size() - copied);
  return out;
}

std::string Guard::Content(absl::string_view text) const {
  return Mark(text, !text.empty() && EndsSpecial(text));
}

std::string Guard::Role(absl::string_view role) const {
  if (std::find(std::begin(kUsualRoles), std::end(kUsualRoles), role) != std::end(kUsualRoles)) {
    return std::string(role);
  }
  const auto holds_role = [&](absl::string_view token) { return absl::StrContains(token, role); };
  const bool is_inside = !role.empty() && std::any_of(sorted_.begin(), sorted_.end(), holds_role);
  return Mark(role, is_inside || (!role.empty() && EndsSpecial(role)));
}

}  // namespace nibble

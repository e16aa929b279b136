#include "engine/text/utf8.h"

#include <cstdint>

namespace nibble {
namespace {

// What may follow a lead byte: how many bytes, and the range of the first of them (the others
// are 80..BF).
struct Lead {
  int32_t num_following = 0;  // -1: can begin nothing
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {};
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};  // shorter forms exist below
  if (byte == 0xED) return {2, 0x80, 0x9F};  // surrogates above
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF};
  if (byte == 0xF4) return {3, 0x80, 0x8F};  // U+10FFFF is the last
  return {-1, 0, 0};
}

}  // namespace

size_t AppendWholeUtf8(absl::string_view bytes, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Lead lead = LeadOf(static_cast<uint8_t>(bytes[at]));
    size_t end = at + 1;
    int32_t missing = lead.num_following;
    uint8_t low = lead.low, high = lead.high;
    while (missing > 0 && end < bytes.size()) {
      const auto byte = static_cast<uint8_t>(bytes[end]);
      if (byte < low || byte > high) break;
      low = 0x80, high = 0xBF;
      ++end, --missing;
    }
    if (missing > 0 && end == bytes.size()) return bytes.size() - at;
    if (missing == 0) {
      out.append(bytes.data() + at, end - at);
    } else {
      out.append(kReplacement.data(), kReplacement.size());
    }
    at = end;
  }
  return 0;
}

std::string ReplaceBrokenUtf8(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  if (AppendWholeUtf8(bytes, out) > 0) out.append(kReplacement.data(), kReplacement.size());
  return out;
}

}  // namespace nibble

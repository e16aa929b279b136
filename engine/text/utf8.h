// UTF-8 that may be broken, made whole the way Python's bytes.decode("utf-8", "replace") does it:
// every maximal subpart of an ill-formed sequence (Unicode 15, table 3-8) becomes one U+FFFD.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace nibble {

inline constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Appends the characters of `bytes` to `out`, U+FFFD for what can never be one. Returns how many
// bytes at the end of `bytes` (0 to 3) are the beginning of a character that is not complete yet:
// they are not in `out`.
size_t AppendWholeUtf8(absl::string_view bytes, std::string& out);

// All of it, an unfinished end included (as one U+FFFD).
std::string ReplaceBrokenUtf8(absl::string_view bytes);

}  // namespace nibble

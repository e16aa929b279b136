// One character of UTF-8 that may be broken (Unicode 15, table 3-7).
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace nibble {

// Bytes of the character that `text` starts with: 1 to 4. 0 where they form none: a byte that
// starts nothing, a cut character, an overlong form, a surrogate, what lies beyond U+10FFFF.
// REQUIRES: text is not empty.
size_t Utf8CharacterBytes(absl::string_view text);

}  // namespace nibble

// Untrusted text made fit for messages, logs and JSON.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace nibble {

// True for 1 to max_bytes printable ASCII characters: what names of keys and tensors must be.
bool IsPrintableName(absl::string_view text, uint64_t max_bytes);

// True when `text` is well-formed UTF-8 (no surrogates, no overlong forms).
bool IsUtf8(absl::string_view text);

// In double quotes, control characters escaped, bytes that are not UTF-8 in hex, cut after 120
// bytes with "...".
std::string QuoteForMessage(absl::string_view text);

}  // namespace nibble

// What this program calls itself.
#pragma once

namespace nibble {

#ifndef NIBBLE_VERSION
#define NIBBLE_VERSION "unknown"
#endif

inline constexpr char kVersion[] = NIBBLE_VERSION;

}  // namespace nibble

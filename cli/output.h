// --output text|json, shared by the subcommands that have both.
#pragma once

#include <cstdint>

#include "cli/flags.h"

namespace nibble {

enum class OutputFormat : uint8_t { kText, kJson };

inline void AddOutputFlag(Flags& flags, OutputFormat& output) {
  flags.AddChoice<OutputFormat>("--output", output,
                                {{"text", OutputFormat::kText}, {"json", OutputFormat::kJson}},
                                "text for people, json for programs");
}

}  // namespace nibble

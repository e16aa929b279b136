// --output text|json, shared by the subcommands that have both, and how JSON is printed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/flags.h"

namespace nibble {

enum class OutputFormat : uint8_t { kText, kJson };

inline void AddOutputFlag(Flags& flags, OutputFormat& output) {
  flags.AddChoice<OutputFormat>("--output", output,
                                {{"text", OutputFormat::kText}, {"json", OutputFormat::kJson}},
                                "text for people, json for programs");
}

// One line, or with `indent` spaces a level many; flushed. JSON is UTF-8 and a path need not be:
// its other bytes become U+FFFD, where dump() alone would end the program.
inline void PrintJson(std::ostream& out, const nlohmann::ordered_json& json, int indent = -1) {
  out << json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
      << std::endl;
}

}  // namespace nibble

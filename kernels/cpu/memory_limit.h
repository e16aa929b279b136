// How much memory this process may still take.
#pragma once

#include <cstdint>
#include <string>

namespace nibble {

struct MemoryLimit {
  int64_t total = 0;  // bytes: the machine's, or the smallest limit of its control groups
  int64_t free = 0;   // of them, without swapping or being killed; what only caches files is free
};

// The smaller of what the machine has (/proc/meminfo, MemAvailable) and what the control groups
// leave: memory.max, memory.current and memory.stat of version 2, memory.limit_in_bytes,
// memory.usage_in_bytes and memory.stat of version 1, of the group and all above it. In a container
// the first alone is the host's figure, and more than the limit is not refused but killed, when it
// is written. `root` is put before the paths. What cannot be read limits nothing.
MemoryLimit UsableMemory(const std::string& root = "");

}  // namespace nibble

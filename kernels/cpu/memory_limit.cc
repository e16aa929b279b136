#include "kernels/cpu/memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "kernels/cpu/cgroup.h"
#include "kernels/cpu/system_file.h"

namespace nibble {
namespace {

// The number behind `key` in a file of lines "key number".
int64_t NumberOf(const std::string& path, absl::string_view key) {
  std::ifstream file(path);
  int64_t number = 0;
  for (std::string word, rest; file >> word; std::getline(file, rest)) {
    if (word == key && file >> number) return std::max<int64_t>(number, 0);
  }
  return 0;
}

std::optional<int64_t> ByteCount(const std::string& path) {
  int64_t bytes = 0;
  if (!absl::SimpleAtoi(FirstLine(path), &bytes) || bytes < 0) return std::nullopt;  // "max", -1
  return bytes;
}

// What stands in the page cache goes when memory is asked for.
int64_t CachedBytes(const std::string& folder, bool version_2) {
  const std::string stat = folder + "/memory.stat";
  return version_2 ? NumberOf(stat, "inactive_file") + NumberOf(stat, "active_file")
                   : NumberOf(stat, "total_inactive_file") + NumberOf(stat, "total_active_file");
}

MemoryLimit MachineMemory(const std::string& root) {
  MemoryLimit memory;
  memory.total = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const int64_t available_kib = NumberOf(root + "/proc/meminfo", "MemAvailable:");
  memory.free = available_kib > 0 ? available_kib * 1024 : memory.total;
  return memory;
}

}  // namespace

MemoryLimit UsableMemory(const std::string& root) {
  MemoryLimit memory = MachineMemory(root);
  VisitCgroups(root, "memory", [&memory](const std::string& folder, bool version_2) {
    const auto limit = ByteCount(folder + (version_2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const auto used =
        ByteCount(folder + (version_2 ? "/memory.current" : "/memory.usage_in_bytes"));
    if (!limit.has_value() || !used.has_value()) return;
    const int64_t held = std::max<int64_t>(*used - CachedBytes(folder, version_2), 0);
    memory.total = std::min(memory.total, *limit);
    memory.free = std::min(memory.free, std::max<int64_t>(*limit - held, 0));
  });
  return memory;
}

}  // namespace nibble

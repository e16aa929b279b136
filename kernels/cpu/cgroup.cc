#include "kernels/cpu/cgroup.h"

#include <algorithm>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nibble {

void VisitCgroups(const std::string& root, absl::string_view controller,
                  absl::FunctionRef<void(const std::string& folder, bool version_2)> visit) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "ID:CONTROLLERS:/PATH"
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || absl::StrContains(parts[2], "..")) continue;
    const std::string& controllers = parts[1];
    const std::vector<absl::string_view> names = absl::StrSplit(controllers, ',');
    const bool version_2 = controllers.empty();
    if (!version_2 && std::find(names.begin(), names.end(), controller) == names.end()) continue;
    const std::string mount = root + "/sys/fs/cgroup";
    std::vector<std::string> mounts = {mount};
    if (!version_2) {
      mounts = {absl::StrCat(mount, "/", controllers)};
      if (controllers != controller) mounts.push_back(absl::StrCat(mount, "/", controller));
    }
    for (const std::string& at : mounts) {
      std::string group = parts[2] == "/" ? "" : parts[2];
      for (;;) {
        visit(at + group, version_2);
        const size_t slash = group.rfind('/');
        if (slash == std::string::npos) break;
        group.resize(slash);
      }
    }
  }
}

}  // namespace nibble

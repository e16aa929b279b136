// cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/, "cpu.max",
// "cpu.cfs_quota_us".
#include "kernels/cpu/cpu_count.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/cpu/system_file.h"

namespace nibble {
namespace {

// A limit of `quota` in `period`, both in us; 0 for "max", -1 and what is no number.
double Cpus(absl::string_view quota, absl::string_view period) {
  double of_quota = 0, of_period = 0;
  const bool numbers = absl::SimpleAtod(quota, &of_quota) && absl::SimpleAtod(period, &of_period);
  return numbers && of_quota > 0 && of_period > 0 ? of_quota / of_period : 0;
}

double LimitOfFolder(const std::string& folder, bool version_2) {
  if (!version_2) {
    return Cpus(FirstLine(folder + "/cpu.cfs_quota_us"), FirstLine(folder + "/cpu.cfs_period_us"));
  }
  const std::vector<std::string> max =
      absl::StrSplit(FirstLine(folder + "/cpu.max"), ' ', absl::SkipEmpty());
  return max.size() == 2 ? Cpus(max[0], max[1]) : 0;
}

// The smallest of the group's own and those above it. A container often sees its group as the
// root, and a path that is not there.
double LimitOfGroup(const std::string& mount, std::string group, bool version_2) {
  double smallest = 0;
  for (;;) {
    const double limit = LimitOfFolder(mount + group, version_2);
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return smallest;
    group.resize(slash);
  }
}

}  // namespace

double CgroupCpus(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  double smallest = 0;
  for (std::string line; std::getline(groups, line);) {  // "ID:CONTROLLERS:/PATH"
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || absl::StrContains(parts[2], "..")) continue;
    const std::string& controllers = parts[1];
    const std::vector<absl::string_view> names = absl::StrSplit(controllers, ',');
    const bool version_2 = controllers.empty();
    if (!version_2 && std::find(names.begin(), names.end(), "cpu") == names.end()) continue;
    const std::string mount = root + "/sys/fs/cgroup";
    const std::vector<std::string> mounts =
        version_2 ? std::vector<std::string>{mount}
                  : std::vector<std::string>{absl::StrCat(mount, "/", controllers), mount + "/cpu"};
    for (const std::string& at : mounts) {
      const double limit = LimitOfGroup(at, parts[2] == "/" ? "" : parts[2], version_2);
      if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
    }
  }
  return smallest;
}

int UsableCpus(const std::string& root) {
  constexpr double kMany = 1 << 20;  // a limit above is none
  const int cpus = std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
  const double limit = CgroupCpus(root);
  if (limit <= 0 || limit > kMany) return cpus;
  return std::min(cpus, std::max(static_cast<int>(std::ceil(limit)), 1));
}

}  // namespace nibble

#include "kernels/cpu/cpu_count.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernels/cpu/cgroup.h"
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

}  // namespace

double CgroupCpus(const std::string& root) {
  double smallest = 0;
  VisitCgroups(root, "cpu", [&smallest](const std::string& folder, bool version_2) {
    const double limit = LimitOfFolder(folder, version_2);
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
  });
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

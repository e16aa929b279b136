// DescribeMachine: Linux's /proc and /sys (Documentation/ABI/stable/sysfs-devices-system-cpu), and
// cpuid.
#include "kernels/machine.h"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/cpu/cpu_count.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/system_file.h"

namespace nibble {
namespace {

int32_t Number(const std::string& text) {
  int32_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

// How many numbers a file lists.
int32_t CountOf(const std::string& path) { return static_cast<int32_t>(ReadNumbers(path).size()); }

// What follows "key :" in the first line of the file that begins with the key.
std::string ValueOf(const std::string& path, absl::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, key)) continue;
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (absl::ConsumePrefix(&rest, ":")) return std::string(absl::StripAsciiWhitespace(rest));
  }
  return "";
}

int64_t KibOf(absl::string_view text) {
  for (absl::string_view suffix : {"kB", "K"}) absl::ConsumeSuffix(&text, suffix);
  return Number(std::string(absl::StripAsciiWhitespace(text)));
}

// A cache is told once a cpu that shares it; those with the same list of cpus are one.
class Caches {
 public:
  void Add(const std::string& folder) {
    const std::string level = FirstLine(folder + "/level");
    if (level.empty()) return;
    CacheInfo cache;
    cache.level = Number(level);
    cache.type = FirstLine(folder + "/type");
    cache.size_bytes = KibOf(FirstLine(folder + "/size")) << 10;
    const std::string kind = absl::StrCat(level, " ", cache.type, " ", cache.size_bytes);
    if (!seen_.insert(absl::StrCat(kind, " ", FirstLine(folder + "/shared_cpu_list"))).second) {
      return;
    }
    const auto [place, added] = place_.try_emplace(kind, caches_.size());
    if (added) caches_.push_back(cache);
    ++caches_[place->second].instances;
  }
  std::vector<CacheInfo> Take() {
    std::stable_sort(caches_.begin(), caches_.end(),
                     [](const CacheInfo& a, const CacheInfo& b) { return a.level < b.level; });
    return std::move(caches_);
  }

 private:
  std::set<std::string> seen_;
  std::map<std::string, size_t> place_;
  std::vector<CacheInfo> caches_;
};

void ReadCpus(const std::string& cpus, MachineInfo& info) {
  constexpr int kMaxCpus = 4096, kMaxCaches = 16;  // Linux's own bound; far above any machine's
  std::set<std::string> cores, sockets;
  Caches caches;
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    const std::string folder = absl::StrCat(cpus, "/cpu", cpu);
    if (!std::filesystem::exists(folder)) break;
    const std::string socket = FirstLine(folder + "/topology/physical_package_id");
    if (socket.empty()) continue;  // offline
    sockets.insert(socket);
    cores.insert(FirstLine(folder + "/topology/thread_siblings_list"));
    for (int i = 0; i < kMaxCaches; ++i) caches.Add(absl::StrCat(folder, "/cache/index", i));
  }
  info.num_cores = static_cast<int32_t>(cores.size());
  info.num_sockets = static_cast<int32_t>(sockets.size());
  info.caches = caches.Take();
}

int32_t NumUsable() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

// Of the instruction sets that kernels are or may be written for. The compiler's support also asks
// whether the operating system saves the registers; its argument has to be a literal.
std::vector<std::string> Features() {
  std::vector<std::string> features;
  const auto add = [&features](const char* name, bool has) {
    if (has) features.push_back(name);
  };
#if defined(__x86_64__)
  add("sse4.2", __builtin_cpu_supports("sse4.2"));
  add("avx", __builtin_cpu_supports("avx"));
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("f16c", __builtin_cpu_supports("f16c"));
  add("avxvnni", __builtin_cpu_supports("avxvnni"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512bw", __builtin_cpu_supports("avx512bw"));
  add("avx512dq", __builtin_cpu_supports("avx512dq"));
  add("avx512vl", __builtin_cpu_supports("avx512vl"));
  add("avx512vbmi", __builtin_cpu_supports("avx512vbmi"));
  add("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  add("avx512bf16", __builtin_cpu_supports("avx512bf16"));
#else
  add("", false);
#endif
  return features;
}

}  // namespace

MachineInfo DescribeMachine(const std::string& root) {
  MachineInfo info;
  info.cpu = ValueOf(root + "/proc/cpuinfo", "model name");
  utsname system;
  if (uname(&system) == 0) info.architecture = system.machine;
  info.num_cpus = CountOf(root + "/sys/devices/system/cpu/online");
  info.num_usable = NumUsable();
  info.cgroup_cpus = CgroupCpus(root);
  info.num_numa_nodes = CountOf(root + "/sys/devices/system/node/online");
  info.memory_bytes = KibOf(ValueOf(root + "/proc/meminfo", "MemTotal")) << 10;
  ReadCpus(root + "/sys/devices/system/cpu", info);
  info.features = Features();
  const CpuIsa best = DetectIsa();
  for (const CpuIsa isa : SupportedIsas()) {
    info.isas.push_back({std::string(IsaName(isa)), isa == best});
  }
  info.why = ChooseIsa(CpuIsa::kAuto)->why;
  info.attention = ChooseAttention(best, CpuOptions().activations).why;
  return info;
}

}  // namespace nibble

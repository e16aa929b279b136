// Linux: /sys/devices/system/node (Documentation/ABI/stable/sysfs-devices-node), mbind(2).
#include "kernels/cpu/numa.h"

#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/system_file.h"

namespace nibble::cpu {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;
constexpr int64_t kPageBytes = 4096;

// mbind has no wrapper outside libnuma, which would be a dependency for one call.
void Bind(int mode, uint64_t begin, uint64_t end, const std::vector<int>& nodes) {
  constexpr int kBits = 8 * sizeof(unsigned long);
  unsigned long mask[(kMaxCpuOrNode + kBits) / kBits] = {};
  for (int node : nodes) mask[node / kBits] |= 1ul << (node % kBits);
  if (begin < end) syscall(SYS_mbind, begin, end - begin, mode, mask, kMaxCpuOrNode + 1, 0);
}

}  // namespace

std::vector<NumaNode> UsableNodes(const std::string& root) {
  cpu_set_t usable;
  if (sched_getaffinity(0, sizeof(usable), &usable) != 0) return {};
  const std::string folder = root + "/sys/devices/system/node";
  std::vector<NumaNode> nodes;
  for (int id : ReadNumbers(folder + "/online")) {
    NumaNode node{.id = id, .cpus = {}};
    for (int cpu : ReadNumbers(absl::StrCat(folder, "/node", id, "/cpulist"))) {
      if (cpu < CPU_SETSIZE && CPU_ISSET(cpu, &usable)) node.cpus.push_back(cpu);
    }
    if (!node.cpus.empty() && nodes.size() < kMaxNodes) nodes.push_back(std::move(node));
  }
  return nodes;
}

NumaPlacement::NumaPlacement(std::vector<NumaNode> nodes, int num_threads) {
  NIBBLE_CHECK(num_threads >= 1);
  if (nodes.size() > 1) nodes_ = std::move(nodes);
  int64_t num_cpus = 0, before = 0;
  for (const NumaNode& node : nodes_) num_cpus += static_cast<int64_t>(node.cpus.size());
  first_thread_.push_back(0);
  for (int n = 0; n < static_cast<int>(nodes_.size()); ++n) {
    for (int cpu : nodes_[n].cpus) {
      if (cpu >= static_cast<int>(node_of_cpu_.size())) node_of_cpu_.resize(cpu + 1);
      node_of_cpu_[cpu] = n;
    }
    before += static_cast<int64_t>(nodes_[n].cpus.size());
    first_thread_.push_back(static_cast<int>(num_threads * before / num_cpus));
  }
  if (nodes_.empty()) first_thread_.push_back(num_threads);
}

int NumaPlacement::NodeOfThread(int thread) const {
  const auto after = std::upper_bound(first_thread_.begin(), first_thread_.end() - 1, thread);
  return std::max<int>(static_cast<int>(after - first_thread_.begin()) - 1, 0);
}

int NumaPlacement::NodeOfCaller() const {
  if (nodes_.empty()) return 0;
  const int cpu = sched_getcpu();
  return cpu >= 0 && cpu < static_cast<int>(node_of_cpu_.size()) ? node_of_cpu_[cpu] : 0;
}

int NumaPlacement::FirstPart(int node, int num_parts) const {
  return static_cast<int>(int64_t{num_parts} * first_thread_[node] / first_thread_.back());
}

void NumaPlacement::Settle(int thread) const {
  if (nodes_.empty()) return;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (int cpu : nodes_[NodeOfThread(thread)].cpus) CPU_SET(cpu, &cpus);
  sched_setaffinity(0, sizeof(cpus), &cpus);
}

void NumaPlacement::SpreadRows(void* begin, int64_t size_bytes) const {
  if (nodes_.empty() || size_bytes < 2 * num_nodes() * kHugePageBytes) return;
  const auto at = reinterpret_cast<uint64_t>(begin);
  const auto edge = [&](int node) {  // the nearest huge page
    const int64_t offset = size_bytes / first_thread_.back() * first_thread_[node];
    return (at + offset + kHugePageBytes / 2) / kHugePageBytes * kHugePageBytes;
  };
  for (int n = 0; n < num_nodes(); ++n) Bind(MPOL_PREFERRED, edge(n), edge(n + 1), {nodes_[n].id});
}

void NumaPlacement::Interleave(void* begin, int64_t size_bytes) const {
  if (nodes_.empty()) return;
  std::vector<int> ids;
  for (const NumaNode& node : nodes_) ids.push_back(node.id);
  const auto at = reinterpret_cast<uint64_t>(begin);
  Bind(MPOL_INTERLEAVE, (at + kPageBytes - 1) / kPageBytes * kPageBytes,
       (at + size_bytes) / kPageBytes * kPageBytes, ids);
}

}  // namespace nibble::cpu

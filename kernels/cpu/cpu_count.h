// How many threads this process can keep busy.
#pragma once

#include <string>

namespace nibble {

// The smaller of the cpus the calling thread may run on (its affinity) and the cpu time its control
// groups allow, in whole cpus, rounded up: what a container's limit of "cpu: 2" is on a machine of
// 64. More threads than that are stopped by the system for most of each 100 ms. At least 1.
//
// Reads /proc/self/cgroup and, below /sys/fs/cgroup, cpu.max (version 2) or cpu.cfs_quota_us
// (version 1) of the group and all above it; `root` is put before those paths (tests have one of
// their own). Without a readable limit: the affinity.
int UsableCpus(const std::string& root = "");

// The limit alone, in cpus: 1.5 for 150 ms in 100. 0: none, or not readable.
double CgroupCpus(const std::string& root = "");

}  // namespace nibble

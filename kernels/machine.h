// What the machine under the CPU backend is, and the most it can do: what `nibble inspect
// --machine` prints and what the roofline of `nibble bench` is measured against.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace nibble {

struct CacheInfo {
  int32_t level = 0;
  std::string type;        // "Data", "Instruction", "Unified"
  int64_t size_bytes = 0;  // of one
  int32_t instances = 0;   // in the machine
};

struct IsaInfo {
  std::string name;     // as --cpu-isa takes it
  bool chosen = false;  // by --cpu-isa=auto
};

// What is not known (another system, a container without /sys) is empty or 0.
struct MachineInfo {
  std::string cpu;           // "AMD EPYC"
  std::string architecture;  // "x86_64", "aarch64"
  int32_t num_cpus = 0;      // hardware threads online
  int32_t num_usable = 0;    // of those, the ones this process may run on
  double cgroup_cpus = 0;    // what its control groups allow it; 0: no limit
  int32_t num_cores = 0;
  int32_t num_sockets = 0;
  int32_t num_numa_nodes = 0;
  std::vector<CacheInfo> caches;  // level 1 first
  int64_t memory_bytes = 0;
  std::vector<std::string> features;  // of the instruction set, those kernels are written for
  std::vector<IsaInfo> isas;          // what kernels this machine can run, slowest first
  std::string why;                    // one line: why the chosen one was
  std::string attention;              // one line: what attention multiplies in there, and why
};

// Reads /proc and /sys below `root` (tests have one of their own), and asks cpuid. Under a
// millisecond for each 10 hardware threads.
MachineInfo DescribeMachine(const std::string& root = "");

// The limits of a roofline (Williams et al., doi 10.1145/1498765.1498785), measured: the best of
// many short runs on all threads, so a busy machine makes them too low, never too high. A rate
// above its limit is possible where the limit was measured while something else ran, or where
// operands were nearer than the limit's (see bandwidth_bytes).
struct MachinePeaks {
  int32_t num_threads = 0;
  std::string isa;
  std::string why;
  // Streaming read of a buffer of bandwidth_bytes (asked for: the packed weights' size, of which a
  // part may stay in the last cache between steps), and of memory_bytes, several times that cache.
  int64_t bandwidth_bytes = 0;
  double bandwidth_bytes_per_s = 0;
  int64_t memory_bytes = 0;
  double memory_bytes_per_s = 0;
  // Dot products with operands in registers: unsigned by signed bytes, and f32.
  double int8_macs_per_s = 0;
  double f32_macs_per_s = 0;
  double attention_macs_per_s = 0;  // of what attention multiplies in: f32, or bf16 (cpu/isa.h)
  // Of parts that wait for each other, from the call of all threads to the return. Of two threads
  // some 0.35 us where their cores share a cache, 1.5 us where they do not, 0.13 us where both are
  // one core's: what a virtual machine does not tell.
  double barriers_per_s = 0;
};

// Measures for `options`' threads and instruction set. `now_s` is the clock, in seconds. Costs
// about a second of all threads and `memory_bytes` of memory, given back.
// Errors: those of CreateCpuBackend; INVALID_ARGUMENT for weights_bytes < 1.
absl::StatusOr<MachinePeaks> MeasurePeaks(const CpuOptions& options, int64_t weights_bytes,
                                          absl::FunctionRef<double()> now_s);

}  // namespace nibble

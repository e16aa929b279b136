// MeasurePeaks: the loops of machine_peak.h on all threads of a pool, timed from outside.
#include "kernels/cpu/machine_peak.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/machine.h"

namespace nibble {
namespace {

constexpr double kSecondsEach = 0.2;  // of one limit: long enough for clocks to settle
constexpr int kMinRuns = 3;
constexpr int64_t kReadStep = 1024;  // what PeakKernels::read asks for
constexpr int kPartsPerThread =
    4;  // as the linear op cuts its work: a slow thread is not waited for
// A buffer that no last cache holds: 4 times this machine's, from 128 MiB (caches of a host may be
// larger than a guest sees) to 1 GiB.
constexpr int64_t kMinMemoryBytes = int64_t{128} << 20;
constexpr int64_t kMaxMemoryBytes = int64_t{1} << 30;

// An instruction set without loops of its own gets those of the next lower one, so its shares of
// the peak may come out too high.
const cpu::PeakKernels& KernelsFor(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAvx512VnniBf16:
      return cpu::kAvx512Peak;
    case CpuIsa::kAvx2:
    case CpuIsa::kAvx512:
    case CpuIsa::kAvxVnni:
      return cpu::kAvx2Peak;
    default:
      return cpu::kScalarPeak;
  }
}

// Work a second of the best run. `run` returns the work it did.
double BestRate(absl::FunctionRef<double()> now_s, absl::FunctionRef<int64_t()> run) {
  double best = 0;
  const double start = now_s();
  for (int i = 0; i < kMinRuns || now_s() - start < kSecondsEach; ++i) {
    const double begin = now_s();
    const int64_t work = run();
    const double seconds = now_s() - begin;
    if (seconds > 0) best = std::max(best, static_cast<double>(work) / seconds);
  }
  return best;
}

// Rounds that take about a millisecond on one thread, for 1 to 100 GMAC/s: 64 to 2,048 MACs each.
constexpr int64_t kRounds = 20000;

double BestMacs(ThreadPool& pool, cpu::MacsFn macs, absl::FunctionRef<double()> now_s) {
  return BestRate(now_s, [&] {
    std::atomic<int64_t> done{0};
    pool.Run(pool.size() * kPartsPerThread, [&](int) { done += macs(kRounds); });
    return done.load();
  });
}

double BestRead(ThreadPool& pool, const cpu::PeakKernels& kernels, const uint8_t* data,
                int64_t size_bytes, absl::FunctionRef<double()> now_s) {
  const int parts = pool.size() * kPartsPerThread;
  const int64_t steps = size_bytes / kReadStep;
  std::atomic<uint64_t> sums{0};  // keeps the loads alive
  return BestRate(now_s, [&] {
    pool.Run(parts, [&](int part) {
      const int64_t first = steps * part / parts, last = steps * (part + 1) / parts;
      sums += kernels.read(data + first * kReadStep, (last - first) * kReadStep);
    });
    return steps * kReadStep;
  });
}

// Parts that wait for each other, or one thread would take them all before another has come.
double BestBarriers(ThreadPool& pool, absl::FunctionRef<double()> now_s) {
  constexpr int64_t kBarriers = 1000;  // about a millisecond
  return BestRate(now_s, [&] {
    for (int64_t i = 0; i < kBarriers; ++i) {
      std::atomic<int> begun{0};
      pool.Run(pool.size(), [&](int) {
        begun.fetch_add(1, std::memory_order_relaxed);
        cpu::WaitUntil([&] { return begun.load(std::memory_order_relaxed) >= pool.size(); });
      });
    }
    return kBarriers;
  });
}

int64_t MemoryBytes(const MachineInfo& machine) {
  int64_t last_cache = 0;
  for (const CacheInfo& cache : machine.caches) {
    last_cache = std::max(last_cache, cache.size_bytes * cache.instances);
  }
  const int64_t wanted = std::clamp(4 * last_cache, kMinMemoryBytes, kMaxMemoryBytes);
  return machine.memory_bytes > 0 ? std::min(wanted, machine.memory_bytes / 4) : wanted;
}

}  // namespace

absl::StatusOr<MachinePeaks> MeasurePeaks(const CpuOptions& options, int64_t weights_bytes,
                                          absl::FunctionRef<double()> now_s) {
  if (weights_bytes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights_bytes: found ", weights_bytes, ", needed at least 1"));
  }
  // The backend checks the options, and says how many threads 0 means.
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend(options);
  if (!backend.ok()) return backend.status();
  MachinePeaks peaks;
  peaks.num_threads = (*backend)->Info().num_threads;
  peaks.isa = (*backend)->Info().isa;
  peaks.why = (*backend)->Info().why;
  const CpuIsa isa = ChooseIsa(options.isa)->isa;
  const cpu::PeakKernels& kernels = KernelsFor(isa);
  ThreadPool pool(peaks.num_threads);

  peaks.int8_macs_per_s = BestMacs(pool, kernels.int8_macs, now_s);
  peaks.f32_macs_per_s = BestMacs(pool, kernels.f32_macs, now_s);
  peaks.attention_macs_per_s = ChooseAttention(isa, options.activations).products == DType::kBf16
                                   ? BestMacs(pool, cpu::kAvx512Bf16Macs, now_s)
                                   : peaks.f32_macs_per_s;
  peaks.barriers_per_s = BestBarriers(pool, now_s);
  const auto round = [](int64_t bytes) { return (bytes + kReadStep - 1) / kReadStep * kReadStep; };
  peaks.bandwidth_bytes = round(weights_bytes);
  peaks.memory_bytes = round(std::max(MemoryBytes(DescribeMachine()), weights_bytes));
  absl::StatusOr<DeviceBuffer> buffer =
      (*backend)->Allocate(peaks.memory_bytes, "the bandwidth measurement");
  if (!buffer.ok()) return buffer.status();
  auto* const data = static_cast<uint8_t*>(buffer->data());
  // The weights' pages are huge as well, and small ones cost a quarter of the bandwidth here.
  madvise(data, peaks.memory_bytes, MADV_HUGEPAGE);
  // Untouched pages would all be the one page of zeros. Touched by the pool, so that on several
  // NUMA nodes pages lie beside threads.
  const int parts = pool.size() * kPartsPerThread;
  pool.Run(parts, [&](int part) {
    const int64_t steps = peaks.memory_bytes / kReadStep;
    const int64_t first = steps * part / parts, last = steps * (part + 1) / parts;
    std::fill(data + first * kReadStep, data + last * kReadStep, static_cast<uint8_t>(1 + part));
  });
  peaks.memory_bytes_per_s = BestRead(pool, kernels, data, peaks.memory_bytes, now_s);
  peaks.bandwidth_bytes_per_s = BestRead(pool, kernels, data, peaks.bandwidth_bytes, now_s);
  return peaks;
}

}  // namespace nibble

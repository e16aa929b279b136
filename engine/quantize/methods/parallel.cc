#include "engine/quantize/methods/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/check.h"

namespace nibble::quantize {

void ParallelRanges(int64_t n, int64_t grain, int threads,
                    absl::FunctionRef<void(int64_t, int64_t)> fn) {
  NIBBLE_CHECK(grain >= 1 && threads >= 1);
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t first; (first = next.fetch_add(grain)) < n;) {
      fn(first, std::min(first + grain, n));
    }
  };
  const int64_t ranges = (n + grain - 1) / grain;
  std::vector<std::thread> others;
  for (int64_t i = 1; i < std::min<int64_t>(threads, ranges); ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace nibble::quantize

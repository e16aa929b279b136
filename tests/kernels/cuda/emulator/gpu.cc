#include "emulator/gpu.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace nibble::emulator {

Gpu& TheGpu() {
  static Gpu gpu;
  return gpu;
}

cudaError_t Gpu::Launch(const KernelLaunch& launch) {
  if (error() != cudaSuccess) return error();
  const dim3 grid = launch.grid, block = launch.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  // Limits of every device of compute capability 8.0 and above; whole warps are the kernels' own
  // rule.
  if (threads == 0 || threads > Block::kMaxThreads || threads % 32 != 0 || grid.x == 0 ||
      grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  const auto allowed = shared_limits_.find(launch.function);
  const size_t limit = allowed == shared_limits_.end() ? 48 << 10 : allowed->second;
  if (launch.shared_bytes > limit) return cudaErrorInvalidValue;
  if (capture_ != nullptr) {
    capture_->work.push_back([this, launch] { return RunNow(launch); });
    return cudaSuccess;
  }
  ++counts_.host_launches;
  return RunNow(launch);
}

cudaError_t Gpu::Do(std::function<cudaError_t()> work) {
  if (error() != cudaSuccess) return error();
  if (capture_ == nullptr) return work();
  capture_->work.push_back(std::move(work));
  return cudaSuccess;
}

bool Gpu::StartCapture() {
  if (capture_ != nullptr) return false;
  capture_ = std::make_unique<Recorded>();
  capture_broken_ = false;
  return true;
}

std::unique_ptr<Recorded> Gpu::EndCapture() {
  std::unique_ptr<Recorded> recorded = std::move(capture_);
  if (capture_broken_) recorded.reset();
  return recorded;
}

cudaError_t Gpu::RunNow(const KernelLaunch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  ++counts_.launches;
  counts_.shared_bytes = std::max<uint64_t>(counts_.shared_bytes, launch.shared_bytes);
  if (launch.dependent) ++counts_.dependent_launches;
  memory_.StartLaunch(launch.dependent);
  std::vector<uint32_t> order(size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed_);
  if (seed_ != 0) std::shuffle(order.begin(), order.end(), random);
  for (const uint32_t i : order) {
    const uint3 index = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    fault_ = block_.Run(grid, block, index, launch.shared_bytes, launch.body,
                        seed_ == 0 ? 0 : random() | 1, launch.dependent);
    if (!fault_.empty()) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace nibble::emulator

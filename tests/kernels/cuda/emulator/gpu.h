// The emulated device: what the CUDA runtime's functions (runtime.cc) and launches act on. One in a
// process, as the runtime has one current device; not thread-safe.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "emulator/block.h"
#include "emulator/counters.h"
#include "emulator/global_memory.h"

namespace nibble::emulator {

struct KernelLaunch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  const void* function = nullptr;
  std::function<void()> body;  // holds copies of the arguments
  bool dependent = false;      // as if it started together with the launch before it
};

// What a stream was asked for, as a captured graph keeps it: with its arguments, not with what the
// memory they point to holds.
struct Recorded {
  std::vector<std::function<cudaError_t()>> work;
};

class Gpu {
 public:
  GlobalMemory& memory() { return memory_; }
  Block& block() { return block_; }
  Counts& counts() { return counts_; }
  void ResetCounts() { counts_ = {}; }

  // Compute capability, 8.0 at first: of what libraries are told, kernels run alike.
  void SetCapability(int major, int minor) { capability_ = {major, minor}; }
  std::pair<int, int> capability() const { return capability_; }

  // 0: threads and blocks run in order; otherwise shuffled.
  void SetSeed(uint32_t seed) { seed_ = seed; }

  // Done at once, or recorded while a capture is open.
  cudaError_t Launch(const KernelLaunch& launch);
  // The same for what is no kernel: copies, and libraries with a body on the host.
  cudaError_t Do(std::function<cudaError_t()> work);

  // From here on work is recorded. False when a capture is open already.
  bool StartCapture();
  bool capturing() const { return capture_ != nullptr; }
  // What a capture may not contain was asked for: it is lost, as on a real device.
  void BreakCapture() { capture_broken_ = true; }
  // Null when none was open, or when it was broken.
  std::unique_ptr<Recorded> EndCapture();

  void AllowShared(const void* function, size_t bytes) { shared_limits_[function] = bytes; }

  // What a fault leaves: the error that every call of the runtime returns from then on, and its
  // story. TakeFault clears both, which no real device does.
  cudaError_t error() const { return fault_.empty() ? cudaSuccess : cudaErrorLaunchFailure; }
  std::string TakeFault() { return std::exchange(fault_, {}); }

 private:
  GlobalMemory memory_;
  Counts counts_;
  Block block_{memory_, counts_};
  cudaError_t RunNow(const KernelLaunch& launch);

  std::map<const void*, size_t> shared_limits_;
  std::unique_ptr<Recorded> capture_;
  bool capture_broken_ = false;
  uint32_t seed_ = 0;
  std::pair<int, int> capability_ = {8, 0};
  std::string fault_;
};

Gpu& TheGpu();

inline cudaError_t Launch(const KernelLaunch& launch) { return TheGpu().Launch(launch); }
inline uint8_t* DynamicShared() { return TheGpu().block().shared().data(); }

}  // namespace nibble::emulator

// The device's memory as the backend gives it away: a ledger of what is held and for what, and the
// plan of a model held against what is free, so that running out is told with its sums.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"

namespace nibble::cuda {

// What Pack stores of a matrix, as far as its shape and format say. At most, where that depends on
// values: f32 ones that turn out to have 16 bits, f32 scales that fit f16, fp8 scales of blocks.
int64_t PlannedBytes(const PlannedMatrix& matrix);

class DeviceMemory {
 public:
  // `device` outlives this, and this outlives what it allocated.
  explicit DeviceMemory(Device& device) : device_(device) {}

  // Any thread. RESOURCE_EXHAUSTED names `what`, the bytes asked for, those free and those held.
  absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what);
  // RESOURCE_EXHAUSTED with the sums when the plan and `graphs` do not fit into what is free.
  absl::Status CheckPlan(const MemoryPlan& plan, int64_t graphs) const;

 private:
  void Add(const std::string& what, int64_t bytes);
  std::string Held() const;  // "KV cache 1048576, weights 4096"

  Device& device_;
  mutable std::mutex mutex_;
  std::map<std::string, int64_t> bytes_;  // guarded; by what it is for
};

}  // namespace nibble::cuda

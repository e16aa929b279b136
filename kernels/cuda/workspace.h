// The memory that ops need while they run: one buffer, allocated once, handed out anew to each op.
// Ops of one stream run one after another, so they may all use the same bytes.
//
// It begins with kCounterBytes of zeros for the kernels that count arrived blocks: each of those
// leaves its counters at zero. A kernel that wants counters and partial results in one piece gets
// counters that end where the results begin (WithCounters), so that no kernel's results lie on
// another one's counters.
#pragma once

#include <cstdint>

#include "kernels/check.h"

namespace nibble::cuda {

class Workspace {
 public:
  static constexpr int64_t kCounterBytes = 64 << 10;
  static constexpr int64_t kAlignment = 256;

  Workspace() = default;
  // REQUIRES zeros at first, 256-byte aligned.
  Workspace(void* memory, int64_t size_bytes)
      : memory_(static_cast<uint8_t*>(memory)), size_bytes_(size_bytes), used_(kCounterBytes) {}

  // Everything handed out before is free again.
  void Reset() { used_ = kCounterBytes; }
  int64_t size_bytes() const { return size_bytes_; }
  int64_t left_bytes() const { return size_bytes_ - used_; }

  // REQUIRES room: load has checked what ops need (linear.h, CheckAttention of the backend).
  void* Take(int64_t size_bytes) {
    const int64_t rounded = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    NIBBLE_CHECK(rounded <= left_bytes());
    void* taken = memory_ + used_;
    used_ += rounded;
    return taken;
  }

  // A kernel's counters, then results of `result_bytes`. Only one at a time between two Resets.
  void* WithCounters(int64_t counter_bytes, int64_t result_bytes) {
    NIBBLE_CHECK(counter_bytes <= kCounterBytes && used_ == kCounterBytes);
    return static_cast<uint8_t*>(Take(result_bytes)) - counter_bytes;
  }

 private:
  uint8_t* memory_ = nullptr;
  int64_t size_bytes_ = 0;
  int64_t used_ = 0;
};

}  // namespace nibble::cuda

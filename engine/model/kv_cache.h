// The bytes of the paged KV cache, allocated once; the scheduler's BlockAllocator decides who uses
// which block. Immutable after Create. What the blocks hold belongs to the thread that runs steps.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "kernels/backend.h"

namespace nibble {

struct KvCacheOptions {
  int64_t size_bytes = 0;    // to use at most; a last part smaller than a block stays unused
  int32_t block_size = 0;    // tokens; a power of two, 8 to 256
  int32_t max_context = 0;   // tokens one sequence may need
  DType type = DType::kF16;  // kF16, kBf16, kI8 or kF8E4M3: see KvLayer
};

class KvCache {
 public:
  // RESOURCE_EXHAUSTED when `size_bytes` cannot hold one sequence of max_context tokens, or the
  // memory is not there.
  static absl::StatusOr<KvCache> Create(Backend& backend, const ModelConfig& config,
                                        const KvCacheOptions& options);

  // Of all layers together: k and v of block_size tokens, scales included. Exactly proportional to
  // block_size, so with 1 it is what a token costs.
  static int64_t BlockBytes(const ModelConfig& config, int32_t block_size, DType type);

  int32_t num_blocks() const { return shape_.num_blocks; }
  int32_t block_size() const { return shape_.block_size; }
  DType type() const { return shape_.dtype; }
  int64_t size_bytes() const { return memory_.size_bytes(); }
  KvLayer layer(int32_t index) const;

 private:
  KvCache(DeviceBuffer memory, KvLayer shape, int64_t plane_bytes)
      : memory_(std::move(memory)), shape_(shape), plane_bytes_(plane_bytes) {}

  DeviceBuffer memory_;  // [num_layers, 2 (k, v), plane_bytes]
  KvLayer shape_;        // without pointers
  int64_t plane_bytes_;  // one layer's k, or its v
};

}  // namespace nibble

#include "engine/model/kv_cache.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace nibble {

int64_t KvCache::BlockBytes(const ModelConfig& config, int32_t block_size, DType type) {
  return int64_t{2} * config.num_layers * config.num_kv_heads *
         KvHeadBytes(type, block_size, config.head_dim);
}

absl::StatusOr<KvCache> KvCache::Create(Backend& backend, const ModelConfig& config,
                                        const KvCacheOptions& options) {
  const int64_t block_bytes = BlockBytes(config, options.block_size, options.type);
  const int64_t needed_blocks =
      (int64_t{options.max_context} + options.block_size - 1) / options.block_size;
  // A slot's number must fit an int32.
  const int64_t most_blocks = std::numeric_limits<int32_t>::max() / options.block_size;
  const int64_t num_blocks = std::min(options.size_bytes / block_bytes, most_blocks);
  if (num_blocks < needed_blocks) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV cache: ", options.size_bytes, " bytes hold ", num_blocks * options.block_size,
        " tokens of ", block_bytes / options.block_size, " bytes, one sequence of max_context ",
        options.max_context, " tokens needs ", needed_blocks * block_bytes, " bytes (",
        (needed_blocks * block_bytes + (1 << 20) - 1) >> 20,
        " MiB); give the cache more memory (--kv-cache-mib) or lower --max-context"));
  }
  KvLayer shape;
  shape.dtype = options.type;
  shape.num_blocks = static_cast<int32_t>(num_blocks);
  shape.block_size = options.block_size;
  shape.num_kv_heads = config.num_kv_heads;
  shape.head_dim = config.head_dim;
  NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer memory,
                          backend.Allocate(num_blocks * block_bytes, "the KV cache"));
  const int64_t plane_bytes = num_blocks * block_bytes / (int64_t{2} * config.num_layers);
  return KvCache(std::move(memory), shape, plane_bytes);
}

KvLayer KvCache::layer(int32_t index) const {
  KvLayer layer = shape_;
  char* base = static_cast<char*>(memory_.data()) + 2 * int64_t{index} * plane_bytes_;
  layer.k = base;
  layer.v = base + plane_bytes_;
  return layer;
}

}  // namespace nibble

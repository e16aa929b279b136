// Finds full blocks that already hold the beginning of a token sequence, so that a prompt's shared
// prefix is computed once. Content is named by a chain of keyed hashes: name(i) = H(key, name(i -
// 1), tokens of block i), name(-1) = H(key, salt). The key is drawn anew in every process: with a
// foreseeable hash a caller could make another one's prompt hit a block of his choice
// (CVE-2025-25183), and the salt keeps callers who do not trust each other from probing by time
// what others asked. Tokens are compared as well on a hit, so a wrong block is never served even if
// a hash collides.
//
// The engine thread only. Holds 4 * block_size + 80 bytes a cached block.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/hash.h"
#include "engine/scheduling/block_allocator.h"

namespace nibble {

// The names of a sequence's full blocks, computed as far as was needed.
struct BlockNames {
  Digest root{};
  std::vector<Digest> names;
};

class PrefixCache {
 public:
  // `allocator` must outlive the cache.
  PrefixCache(BlockAllocator& allocator, int32_t block_size, const Digest& key);

  BlockNames Begin(absl::string_view salt);

  // The longest run of cached blocks that holds the beginning of tokens[0, limit), each with one
  // more reference. Costs one hash a block found, plus one.
  std::vector<int32_t> Match(absl::Span<const int32_t> tokens, int32_t limit, BlockNames& names);

  // `block`, referenced by the caller, now holds block number `index` of `tokens`, completely. When
  // another block holds the same content already, this one stays unnamed and becomes free when
  // released.
  void Publish(absl::Span<const int32_t> tokens, int32_t index, int32_t block, BlockNames& names);

  // The allocator evicted the block.
  void Forget(int32_t block);

  int32_t num_cached() const { return static_cast<int32_t>(by_name_.size()); }
  // INTERNAL names the first contradiction. O(num_blocks); for tests.
  absl::Status CheckIntegrity() const;

 private:
  struct Entry {
    bool named = false;
    Digest name{};
    std::vector<int32_t> tokens;
  };
  struct NameHash {  // the name is a hash already, and keyed
    size_t operator()(const Digest& name) const;
  };
  const Digest& Name(absl::Span<const int32_t> tokens, int32_t index, BlockNames& names);
  absl::Span<const int32_t> BlockTokens(absl::Span<const int32_t> tokens, int32_t index) const;

  BlockAllocator& allocator_;
  int32_t block_size_;
  KeyedHash hash_;
  std::unordered_map<Digest, int32_t, NameHash> by_name_;
  std::vector<Entry> by_block_;
};

}  // namespace nibble

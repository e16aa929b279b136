// Who uses which block of the KV cache. Decides nothing about content: PrefixCache knows what a
// block holds.
//
// A block is in one of three states:
//   referenced  one or more sequences have it in their table
//   idle        no reference, but its content is cached: a later prompt may revive it, or Take may
//   evict it free        no reference, no content
// Every operation is O(1). The engine thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace nibble {

class BlockAllocator {
 public:
  explicit BlockAllocator(int32_t num_blocks);

  struct Taken {
    int32_t block = 0;
    bool evicted = false;  // it was idle: whoever knows its content must forget it
  };
  // One block with one reference: a free one, else the idle one unused for longest. REQUIRES
  // num_available() > 0.
  Taken Take();
  // One more reference. REQUIRES the block is referenced or idle.
  void Share(int32_t block);
  // One reference less; without any the block becomes idle (most recently used) or free. REQUIRES
  // referenced.
  void Release(int32_t block);

  // The block's content is worth keeping once nobody refers to it. REQUIRES referenced.
  void KeepWhenIdle(int32_t block);

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()) - 1; }
  int32_t num_available() const { return num_free_ + num_idle_; }  // what Take can give
  int32_t num_idle() const { return num_idle_; }
  int32_t num_referenced() const { return num_blocks() - num_available(); }
  int32_t references(int32_t block) const { return blocks_[block].references; }
  bool kept(int32_t block) const { return blocks_[block].kept; }

  // INTERNAL names the first contradiction. O(num_blocks); for tests.
  absl::Status CheckIntegrity() const;

 private:
  // `next` and `previous` link idle blocks into a ring around the sentinel blocks_[num_blocks()],
  // the least recently used first, and free ones into a stack by `next` alone.
  struct Block {
    int32_t references = 0;
    bool kept = false;
    int32_t next = -1;
    int32_t previous = -1;
  };
  void PushIdle(int32_t block);
  void UnlinkIdle(int32_t block);

  std::vector<Block> blocks_;
  int32_t first_free_ = -1;
  int32_t num_free_ = 0;
  int32_t num_idle_ = 0;
};

}  // namespace nibble

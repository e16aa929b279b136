#include "engine/scheduling/block_allocator.h"

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace nibble {

BlockAllocator::BlockAllocator(int32_t num_blocks) : blocks_(num_blocks + 1) {
  Block& sentinel = blocks_.back();
  sentinel.next = sentinel.previous = num_blocks;
  for (int32_t block = num_blocks - 1; block >= 0; --block) {
    blocks_[block].next = first_free_;
    first_free_ = block;
  }
  num_free_ = num_blocks;
}

BlockAllocator::Taken BlockAllocator::Take() {
  NIBBLE_CHECK(num_available() > 0);
  Taken taken;
  if (num_free_ > 0) {
    taken.block = first_free_;
    first_free_ = blocks_[taken.block].next;
    --num_free_;
  } else {
    taken = {blocks_.back().next, true};
    UnlinkIdle(taken.block);
  }
  blocks_[taken.block] = {.references = 1};
  return taken;
}

void BlockAllocator::Share(int32_t block) {
  Block& b = blocks_[block];
  NIBBLE_CHECK(b.references > 0 || b.kept);
  if (b.references++ == 0) UnlinkIdle(block);
}

void BlockAllocator::Release(int32_t block) {
  Block& b = blocks_[block];
  NIBBLE_CHECK(b.references > 0);
  if (--b.references > 0) return;
  if (b.kept) {
    PushIdle(block);
    return;
  }
  b.next = first_free_;
  first_free_ = block;
  ++num_free_;
}

void BlockAllocator::KeepWhenIdle(int32_t block) {
  NIBBLE_CHECK(blocks_[block].references > 0);
  blocks_[block].kept = true;
}

void BlockAllocator::PushIdle(int32_t block) {
  const int32_t sentinel = num_blocks();
  Block& b = blocks_[block];
  b.next = sentinel;
  b.previous = blocks_[sentinel].previous;
  blocks_[b.previous].next = block;
  blocks_[sentinel].previous = block;
  ++num_idle_;
}

void BlockAllocator::UnlinkIdle(int32_t block) {
  Block& b = blocks_[block];
  blocks_[b.previous].next = b.next;
  blocks_[b.next].previous = b.previous;
  --num_idle_;
}

absl::Status BlockAllocator::CheckIntegrity() const {
  std::vector<int> seen(blocks_.size(), 0);
  int32_t free = 0;
  for (int32_t b = first_free_; b != -1 && free <= num_blocks(); b = blocks_[b].next, ++free) {
    if (blocks_[b].references != 0 || seen[b]++ != 0) {
      return absl::InternalError(absl::StrCat("block ", b, " is free and in use"));
    }
  }
  int32_t idle = 0;
  for (int32_t b = blocks_.back().next; b != num_blocks() && idle <= num_blocks();
       b = blocks_[b].next, ++idle) {
    if (blocks_[b].references != 0 || !blocks_[b].kept || seen[b]++ != 0) {
      return absl::InternalError(absl::StrCat("block ", b, " is idle and in use or free"));
    }
  }
  int32_t referenced = 0;
  for (int32_t b = 0; b < num_blocks(); ++b) {
    if (blocks_[b].references > 0) ++referenced;
  }
  if (free != num_free_ || idle != num_idle_ || free + idle + referenced != num_blocks()) {
    return absl::InternalError(absl::StrCat("blocks: ", free, " free, ", idle, " idle, ",
                                            referenced, " referenced, of ", num_blocks(),
                                            "; counted ", num_free_, " and ", num_idle_));
  }
  return absl::OkStatus();
}

}  // namespace nibble

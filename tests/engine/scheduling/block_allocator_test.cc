#include "engine/scheduling/block_allocator.h"

#include <gtest/gtest.h>

#include <random>

namespace nibble {
namespace {

TEST(BlockAllocatorTest, GivesEveryBlockOnceAndTakesItBack) {
  BlockAllocator allocator(3);
  std::vector<bool> seen(3, false);
  for (int i = 0; i < 3; ++i) {
    const BlockAllocator::Taken taken = allocator.Take();
    EXPECT_FALSE(taken.evicted);
    EXPECT_FALSE(seen[taken.block]);
    seen[taken.block] = true;
  }
  EXPECT_EQ(allocator.num_available(), 0);
  for (int block = 0; block < 3; ++block) allocator.Release(block);
  EXPECT_EQ(allocator.num_available(), 3);
  EXPECT_EQ(allocator.num_idle(), 0);  // nobody asked to keep them
  EXPECT_TRUE(allocator.CheckIntegrity().ok());
}

TEST(BlockAllocatorTest, ASharedBlockStaysUntilTheLastReferenceGoes) {
  BlockAllocator allocator(1);
  const int32_t block = allocator.Take().block;
  allocator.Share(block);
  allocator.Release(block);
  EXPECT_EQ(allocator.num_available(), 0);
  allocator.Release(block);
  EXPECT_EQ(allocator.num_available(), 1);
}

TEST(BlockAllocatorTest, EvictsFreeBlocksFirstThenTheLeastRecentlyUsed) {
  BlockAllocator allocator(4);
  int32_t kept[3];
  for (int32_t& block : kept) {
    block = allocator.Take().block;
    allocator.KeepWhenIdle(block);
  }
  for (int32_t index : {1, 0, 2}) allocator.Release(kept[index]);
  EXPECT_EQ(allocator.num_idle(), 3);
  EXPECT_FALSE(allocator.Take().evicted);  // the fourth, free one
  for (int32_t index : {1, 0, 2}) {
    const BlockAllocator::Taken taken = allocator.Take();
    EXPECT_TRUE(taken.evicted);
    EXPECT_EQ(taken.block, kept[index]);
    EXPECT_FALSE(allocator.kept(taken.block));  // its content is gone
  }
}

TEST(BlockAllocatorTest, AnIdleBlockThatIsSharedAgainIsNotEvicted) {
  BlockAllocator allocator(2);
  const int32_t a = allocator.Take().block;
  const int32_t b = allocator.Take().block;
  allocator.KeepWhenIdle(a);
  allocator.KeepWhenIdle(b);
  allocator.Release(a);
  allocator.Release(b);
  allocator.Share(a);  // the oldest, now in use
  EXPECT_EQ(allocator.Take().block, b);
  allocator.Release(a);  // idle again, and now the most recent
  EXPECT_EQ(allocator.num_idle(), 1);
  EXPECT_TRUE(allocator.CheckIntegrity().ok());
}

TEST(BlockAllocatorDeathTest, MisuseIsABrokenInvariant) {
  BlockAllocator allocator(1);
  EXPECT_DEATH(allocator.Release(0), "invariant");
  EXPECT_DEATH(allocator.Share(0), "invariant");
  EXPECT_DEATH(allocator.KeepWhenIdle(0), "invariant");
  allocator.Take();
  EXPECT_DEATH(allocator.Take(), "invariant");
}

TEST(BlockAllocatorTest, StaysSoundUnderRandomUse) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    BlockAllocator allocator(1 + random() % 12);
    std::vector<int32_t> held;  // one entry a reference
    for (int i = 0; i < 300; ++i) {
      const uint64_t what = random() % 4;
      if (what == 0 && allocator.num_available() > 0) held.push_back(allocator.Take().block);
      if (held.empty()) continue;
      const size_t pick = random() % held.size();
      if (what == 1) allocator.KeepWhenIdle(held[pick]);
      if (what == 2) {
        allocator.Share(held[pick]);
        held.push_back(held[pick]);
      }
      if (what == 3) {
        allocator.Release(held[pick]);
        held.erase(held.begin() + pick);
      }
      ASSERT_TRUE(allocator.CheckIntegrity().ok()) << allocator.CheckIntegrity();
    }
    for (int32_t block : held) allocator.Release(block);
    EXPECT_EQ(allocator.num_referenced(), 0);
  }
}

}  // namespace
}  // namespace nibble

#include "engine/scheduling/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace nibble {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kBlockSize = 4;

class PrefixCacheTest : public ::testing::Test {
 protected:
  // Computes and publishes all full blocks of `tokens`, as a sequence that ran would.
  std::vector<int32_t> Compute(const std::vector<int32_t>& tokens, absl::string_view salt = "") {
    BlockNames names = cache_.Begin(salt);
    std::vector<int32_t> blocks;
    for (size_t i = 0; (i + 1) * kBlockSize <= tokens.size(); ++i) {
      const BlockAllocator::Taken taken = allocator_.Take();
      if (taken.evicted) cache_.Forget(taken.block);
      blocks.push_back(taken.block);
      cache_.Publish(tokens, static_cast<int32_t>(i), blocks.back(), names);
    }
    return blocks;
  }
  void Release(const std::vector<int32_t>& blocks) {
    for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) allocator_.Release(*block);
  }
  std::vector<int32_t> Match(const std::vector<int32_t>& tokens, int32_t limit,
                             absl::string_view salt = "") {
    BlockNames names = cache_.Begin(salt);
    std::vector<int32_t> blocks = cache_.Match(tokens, limit, names);
    Release(blocks);
    return blocks;
  }
  static std::vector<int32_t> Iota(int32_t n, int32_t start = 0) {
    std::vector<int32_t> tokens(n);
    std::iota(tokens.begin(), tokens.end(), start);
    return tokens;
  }

  BlockAllocator allocator_{8};
  PrefixCache cache_{allocator_, kBlockSize, MakeHashKey(1)};
};

TEST_F(PrefixCacheTest, FindsTheLongestSharedBeginningInWholeBlocks) {
  const std::vector<int32_t> tokens = Iota(12);
  const std::vector<int32_t> blocks = Compute(tokens);
  std::vector<int32_t> other = tokens;
  other[9] = 99;  // in the third block
  EXPECT_THAT(Match(tokens, 12), ElementsAre(blocks[0], blocks[1], blocks[2]));
  EXPECT_THAT(Match(other, 12), ElementsAre(blocks[0], blocks[1]));
  EXPECT_THAT(Match(Iota(3), 3), IsEmpty());
}

TEST_F(PrefixCacheTest, TheLimitKeepsTokensToCompute) {
  const std::vector<int32_t> tokens = Iota(8);
  const std::vector<int32_t> blocks = Compute(tokens);
  EXPECT_THAT(Match(tokens, 7), ElementsAre(blocks[0]));
  EXPECT_THAT(Match(tokens, 3), IsEmpty());
}

TEST_F(PrefixCacheTest, TheSameTokensElsewhereInTheTextAreAnotherBlock) {
  Compute(Iota(8));
  EXPECT_THAT(Match({4, 5, 6, 7}, 4), IsEmpty());  // the second block's tokens as a first block
}

TEST_F(PrefixCacheTest, CallersWithDifferentSaltsShareNothing) {
  const std::vector<int32_t> tokens = Iota(4);
  const std::vector<int32_t> blocks = Compute(tokens, "alice");
  EXPECT_THAT(Match(tokens, 4, "alice"), ElementsAre(blocks[0]));
  EXPECT_THAT(Match(tokens, 4, "bob"), IsEmpty());
  EXPECT_THAT(Match(tokens, 4), IsEmpty());
}

// CVE-2025-25183: names that can be foreseen can be collided with.
TEST_F(PrefixCacheTest, NamesDependOnTheProcessKey) {
  BlockAllocator allocator(1);
  PrefixCache other(allocator, kBlockSize, MakeHashKey(2));
  EXPECT_NE(cache_.Begin("").root, other.Begin("").root);
}

TEST_F(PrefixCacheTest, ContentSurvivesItsSequenceUntilEvicted) {
  const std::vector<int32_t> tokens = Iota(8);
  const std::vector<int32_t> blocks = Compute(tokens);
  Release(blocks);
  EXPECT_THAT(Match(tokens, 8), ElementsAre(blocks[0], blocks[1]));
  // The six free ones and one eviction: the chain's end goes first, so what leads to it stays of
  // use.
  Compute(Iota(28, 100));
  EXPECT_THAT(Match(tokens, 8), ElementsAre(blocks[0]));
  EXPECT_TRUE(cache_.CheckIntegrity().ok()) << cache_.CheckIntegrity();
}

TEST_F(PrefixCacheTest, ContentComputedTwiceIsKeptOnce) {
  const std::vector<int32_t> tokens = Iota(4);
  const std::vector<int32_t> first = Compute(tokens);
  const std::vector<int32_t> second = Compute(tokens);  // side by side, before either could match
  EXPECT_EQ(cache_.num_cached(), 1);
  EXPECT_THAT(Match(tokens, 4), ElementsAre(first[0]));
  Release(second);
  EXPECT_EQ(allocator_.num_idle(), 0);  // the double is simply free
  EXPECT_TRUE(cache_.CheckIntegrity().ok()) << cache_.CheckIntegrity();
}

TEST_F(PrefixCacheTest, AMatchHoldsItsBlocksAgainstEviction) {
  const std::vector<int32_t> tokens = Iota(4);
  Release(Compute(tokens));
  BlockNames names = cache_.Begin("");
  const std::vector<int32_t> matched = cache_.Match(tokens, 4, names);
  ASSERT_EQ(matched.size(), 1u);
  Compute(Iota(28, 100));  // every other block
  EXPECT_EQ(allocator_.num_available(), 0);
  EXPECT_EQ(allocator_.references(matched[0]), 1);
}

TEST_F(PrefixCacheTest, HashesOnlyAsFarAsItFinds) {
  Compute(Iota(4));
  BlockNames names = cache_.Begin("");
  Release(cache_.Match(Iota(64), 64, names));
  EXPECT_EQ(names.names.size(), 2u);  // one found, one not; the other 14 cost nothing
}

}  // namespace
}  // namespace nibble

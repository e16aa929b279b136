// What ops are handed while they run: aligned pieces that do not overlap, and counters that stay
// apart from every kernel's results.
#include "kernels/cuda/workspace.h"

#include <gtest/gtest.h>

#include <vector>

namespace nibble::cuda {
namespace {

class WorkspaceTest : public testing::Test {
 protected:
  static constexpr int64_t kBytes = Workspace::kCounterBytes + 4096;
  alignas(Workspace::kAlignment) static inline uint8_t memory_[kBytes];
  Workspace workspace_{memory_, kBytes};
};

TEST_F(WorkspaceTest, PiecesAreAlignedAndFollowEachOther) {
  auto* const first = static_cast<uint8_t*>(workspace_.Take(1));
  auto* const second = static_cast<uint8_t*>(workspace_.Take(300));
  EXPECT_EQ(first, memory_ + Workspace::kCounterBytes);
  EXPECT_EQ(second, first + Workspace::kAlignment);
  EXPECT_EQ(workspace_.left_bytes(), 4096 - 3 * Workspace::kAlignment);
  workspace_.Reset();
  EXPECT_EQ(workspace_.Take(4096), first);
  EXPECT_EQ(workspace_.left_bytes(), 0);
}

TEST_F(WorkspaceTest, ResultsBeginAtOnePlaceHoweverManyCountersThereAre) {
  uint8_t* const results = memory_ + Workspace::kCounterBytes;
  for (const int64_t counters : {128, 4096, 65536}) {
    workspace_.Reset();
    EXPECT_EQ(workspace_.WithCounters(counters, 1000), results - counters);
    EXPECT_EQ(workspace_.Take(8), results + 1024);
  }
}

TEST_F(WorkspaceTest, MoreThanThereIsIsABrokenInvariant) {
  EXPECT_DEATH(workspace_.Take(4097), "invariant broken");
  EXPECT_DEATH(workspace_.WithCounters(Workspace::kCounterBytes + 128, 8), "invariant broken");
}

}  // namespace
}  // namespace nibble::cuda

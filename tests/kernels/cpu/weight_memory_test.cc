#include "kernels/cpu/weight_memory.h"

#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace nibble::cpu {
namespace {

bool AllZero(const uint8_t* bytes, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

TEST(AllocateAlignedTest, IsAlignedZeroedAndNullForNothing) {
  EXPECT_EQ(AllocateAligned(0), nullptr);
  for (const int64_t size : {1, 63, 64, 65, 100000}) {
    const AlignedBytes bytes = AllocateAligned(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.get()) % 64, 0u);
    EXPECT_TRUE(AllZero(bytes.get(), size));
  }
}

TEST(WeightMemoryTest, PiecesAreAlignedZeroedAndDoNotOverlap) {
  WeightMemory memory;
  EXPECT_EQ(memory.Allocate(0), nullptr);
  std::vector<std::pair<AlignedBytes, int64_t>> pieces;
  for (int i = 0; i < 300; ++i) {
    const int64_t size = 1 + i * 997 % 300000;
    pieces.emplace_back(memory.Allocate(size), size);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(pieces.back().first.get()) % 64, 0u);
    ASSERT_TRUE(AllZero(pieces.back().first.get(), size));  // also after its neighbours were filled
    std::memset(pieces.back().first.get(), i % 255 + 1, size);
  }
  for (int i = 0; i < 300; ++i) {
    const auto& [bytes, size] = pieces[i];
    for (int64_t at : {int64_t{0}, size / 2, size - 1}) ASSERT_EQ(bytes.get()[at], i % 255 + 1);
  }
}

TEST(WeightMemoryTest, APieceOutlivesTheMemoryAndItsNeighbours) {
  AlignedBytes kept;
  {
    WeightMemory memory;
    const AlignedBytes neighbour = memory.Allocate(1000);
    kept = memory.Allocate(1000);
    for (int i = 0; i < 40; ++i) memory.Allocate(WeightMemory::kChunkBytes / 4);
  }
  std::memset(kept.get(), 7, 1000);
  EXPECT_EQ(kept.get()[999], 7);
}

TEST(WeightMemoryTest, APieceMayBeLargerThanAChunk) {
  WeightMemory memory;
  const int64_t size = WeightMemory::kChunkBytes + 12345;
  const AlignedBytes bytes = memory.Allocate(size);
  bytes.get()[size - 1] = 1;
  EXPECT_NE(memory.Allocate(64).get(), bytes.get());
}

TEST(WeightMemoryTest, SeveralThreadsMayAllocate) {
  WeightMemory memory;
  std::vector<std::thread> threads;
  std::vector<std::vector<AlignedBytes>> pieces(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        pieces[t].push_back(memory.Allocate(4096));
        std::memset(pieces[t].back().get(), t + 1, 4096);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < 4; ++t) {
    for (const AlignedBytes& piece : pieces[t]) {
      ASSERT_EQ(piece.get()[0], t + 1);
      ASSERT_EQ(piece.get()[4095], t + 1);
    }
  }
}

}  // namespace
}  // namespace nibble::cpu

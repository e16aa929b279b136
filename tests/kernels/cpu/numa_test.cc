#include "kernels/cpu/numa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "kernels/cpu/weight_memory.h"

namespace nibble::cpu {
namespace {

// A /sys of our own. Nodes list cpus that the test may not have: only usable ones count.
class UsableNodesTest : public ::testing::Test {
 protected:
  UsableNodesTest()
      : root_(::testing::TempDir() + "numa_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(Folder());
  }
  ~UsableNodesTest() override { std::filesystem::remove_all(root_); }

  std::string Folder() const { return root_ + "/sys/devices/system/node"; }
  void WriteOnline(const std::string& list) { std::ofstream(Folder() + "/online") << list << "\n"; }
  void WriteNode(int id, const std::string& cpus) {
    const std::string folder = Folder() + "/node" + std::to_string(id);
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/cpulist") << cpus << "\n";
  }

  static int UsableCpu() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof(set), &set);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) return cpu;
    }
    return 0;
  }

  std::string root_;
};

TEST_F(UsableNodesTest, ListsNodesWithTheirUsableCpus) {
  const int cpu = UsableCpu();
  WriteOnline("0-1,7");
  WriteNode(0, std::to_string(cpu));
  WriteNode(1, "");  // memory only
  WriteNode(7, std::to_string(cpu) + ",1020-1023");
  const std::vector<NumaNode> nodes = UsableNodes(root_);
  ASSERT_EQ(nodes.size(), 2u);
  EXPECT_EQ(nodes[0].id, 0);
  EXPECT_EQ(nodes[1].id, 7);
  EXPECT_THAT(nodes[0].cpus, testing::ElementsAre(cpu));
  EXPECT_THAT(nodes[1].cpus, testing::ElementsAre(cpu));
}

TEST_F(UsableNodesTest, AnUnreadableSystemHasNone) {
  EXPECT_TRUE(UsableNodes(root_ + "/nowhere").empty());
  for (const char* list : {"", "zero", "0-", "-1", "3-99999999999", "5000"}) {
    WriteOnline(list);
    EXPECT_TRUE(UsableNodes(root_).empty()) << list;
  }
}

std::vector<NumaNode> Nodes(std::vector<int> num_cpus) {
  std::vector<NumaNode> nodes;
  int cpu = 0;
  for (int n : num_cpus) {
    NumaNode node{.id = static_cast<int>(nodes.size()), .cpus = {}};
    for (int i = 0; i < n; ++i) node.cpus.push_back(cpu++);
    nodes.push_back(node);
  }
  return nodes;
}

TEST(NumaPlacementTest, DealsThreadsAndPartsByCpus) {
  const NumaPlacement placement(Nodes({8, 4, 4}), 8);
  ASSERT_EQ(placement.num_nodes(), 3);
  const int expected[] = {0, 0, 0, 0, 1, 1, 2, 2};
  for (int thread = 0; thread < 8; ++thread) {
    EXPECT_EQ(placement.NodeOfThread(thread), expected[thread]) << thread;
  }
  EXPECT_EQ(placement.FirstPart(0, 100), 0);
  EXPECT_EQ(placement.FirstPart(1, 100), 50);
  EXPECT_EQ(placement.FirstPart(2, 100), 75);
  EXPECT_EQ(placement.FirstPart(3, 100), 100);
}

// Any number of threads on any number of nodes: parts are split without a gap, and a thread's node
// has parts where there are enough.
TEST(NumaPlacementTest, PartsOfAllNodesAreAllParts) {
  for (int num_nodes = 1; num_nodes <= kMaxNodes; ++num_nodes) {
    for (int num_threads : {1, 2, 3, 16, 63}) {
      const NumaPlacement placement(Nodes(std::vector<int>(num_nodes, 2)), num_threads);
      for (int num_parts : {0, 1, 7, 65535}) {
        ASSERT_EQ(placement.FirstPart(0, num_parts), 0);
        ASSERT_EQ(placement.FirstPart(placement.num_nodes(), num_parts), num_parts);
        for (int n = 0; n < placement.num_nodes(); ++n) {
          ASSERT_LE(placement.FirstPart(n, num_parts), placement.FirstPart(n + 1, num_parts));
        }
      }
      for (int thread = 0; thread < num_threads; ++thread) {
        const int node = placement.NodeOfThread(thread);
        ASSERT_LT(placement.FirstPart(node, 65535), placement.FirstPart(node + 1, 65535));
      }
    }
  }
}

TEST(NumaPlacementTest, OneNodeIsNoPlacement) {
  for (const NumaPlacement& placement : {NumaPlacement(), NumaPlacement(Nodes({64}), 5)}) {
    EXPECT_EQ(placement.num_nodes(), 1);
    EXPECT_EQ(placement.NodeOfThread(3), 0);
    EXPECT_EQ(placement.NodeOfCaller(), 0);
    cpu_set_t before, after;
    sched_getaffinity(0, sizeof(before), &before);
    placement.Settle(0);
    sched_getaffinity(0, sizeof(after), &after);
    EXPECT_TRUE(CPU_EQUAL(&before, &after));
  }
}

TEST(NumaPlacementTest, SettlesAThreadOnAllCpusOfItsNode) {
  cpu_set_t before;
  sched_getaffinity(0, sizeof(before), &before);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before)) cpus.push_back(cpu);
  }
  const NumaPlacement placement({{.id = 0, .cpus = {cpus.back()}}, {.id = 1, .cpus = cpus}},
                                static_cast<int>(cpus.size()) + 1);
  cpu_set_t first, second;
  std::thread([&] {
    placement.Settle(0);
    sched_getaffinity(0, sizeof(first), &first);
    EXPECT_TRUE(placement.NodeOfCaller() == 0 || placement.NodeOfCaller() == 1);
  }).join();
  std::thread([&] {
    placement.Settle(1);
    sched_getaffinity(0, sizeof(second), &second);
  }).join();
  EXPECT_EQ(CPU_COUNT(&first), 1);
  EXPECT_TRUE(CPU_ISSET(cpus.back(), &first));
  EXPECT_TRUE(CPU_EQUAL(&second, &before));
}

// Node 0 is everywhere, node 1 mostly not: a wish the system refuses leaves ordinary memory.
TEST(NumaPlacementTest, SpreadAndInterleavedMemoryIsMemory) {
  const NumaPlacement placement(Nodes({1, 1}), 4);
  WeightMemory memory(placement);
  constexpr int64_t kLarge = 4 * 2 * WeightMemory::kHugePageBytes + 64;
  for (const int64_t size : {int64_t{64}, int64_t{100000}, kLarge, WeightMemory::kChunkBytes * 2}) {
    const AlignedBytes bytes = memory.Allocate(size);
    for (int64_t i = 0; i < size; i += 4096) ASSERT_EQ(bytes.get()[i], 0);
    std::memset(bytes.get(), 7, static_cast<size_t>(size));
    EXPECT_EQ(bytes.get()[size - 1], 7);
  }
  std::vector<uint8_t> some(3 << 20, 5);
  placement.Interleave(some.data(), static_cast<int64_t>(some.size()));
  EXPECT_EQ(some[some.size() / 2], 5);
}

}  // namespace
}  // namespace nibble::cpu

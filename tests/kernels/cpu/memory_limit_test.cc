#include "kernels/cpu/memory_limit.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace nibble {
namespace {

constexpr int64_t kMib = 1 << 20;

// A /proc and /sys of our own.
class MemoryLimitTest : public ::testing::Test {
 protected:
  MemoryLimitTest()
      : root_(::testing::TempDir() + "memory_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
    Write("/proc/meminfo",
          "MemTotal:       99999999 kB\nMemFree:  1 kB\nMemAvailable:    1024000 kB");
  }
  ~MemoryLimitTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text << "\n";
  }

  std::string root_;
};

TEST_F(MemoryLimitTest, WithoutGroupsItIsWhatTheMachineHas) {
  EXPECT_EQ(UsableMemory(root_).free, 1000 * kMib);
  EXPECT_GT(UsableMemory(root_).total, 0);
}

TEST_F(MemoryLimitTest, WithoutMeminfoAllOfItIsFree) {
  Write("/proc/meminfo", "nonsense");
  EXPECT_EQ(UsableMemory(root_).free, UsableMemory(root_).total);
}

TEST_F(MemoryLimitTest, AContainerHasWhatItsLimitLeaves) {
  Write("/proc/self/cgroup", "0::/");
  Write("/sys/fs/cgroup/memory.max", "536870912");
  Write("/sys/fs/cgroup/memory.current", "209715200");
  EXPECT_EQ(UsableMemory(root_).total, 512 * kMib);
  EXPECT_EQ(UsableMemory(root_).free, 312 * kMib);
  // Files that were read count as used until somebody needs the memory.
  Write("/sys/fs/cgroup/memory.stat",
        "anon 1\nfile 157286400\ninactive_file 104857600\nactive_file 52428800\nslab 7");
  EXPECT_EQ(UsableMemory(root_).free, 462 * kMib);
}

TEST_F(MemoryLimitTest, TheTightestOnTheWayUpHolds) {
  Write("/proc/self/cgroup", "0::/pods/one");
  Write("/sys/fs/cgroup/pods/one/memory.max", "max");
  Write("/sys/fs/cgroup/pods/one/memory.current", "1048576");
  Write("/sys/fs/cgroup/pods/memory.max", "104857600");
  Write("/sys/fs/cgroup/pods/memory.current", "94371840");
  EXPECT_EQ(UsableMemory(root_).free, 10 * kMib);
  Write("/sys/fs/cgroup/pods/memory.current", "209715200");  // over it already
  EXPECT_EQ(UsableMemory(root_).free, 0);
}

TEST_F(MemoryLimitTest, ReadsVersionOneToo) {
  Write("/proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "104857600");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "52428800");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.stat",
        "inactive_file 1\ntotal_inactive_file 10485760\ntotal_active_file 0");
  EXPECT_EQ(UsableMemory(root_).free, 60 * kMib);
  Write("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712");  // none
  EXPECT_EQ(UsableMemory(root_).free, 1000 * kMib);
}

TEST_F(MemoryLimitTest, NonsenseLimitsNothing) {
  Write("/proc/self/cgroup", "0::/\nnonsense\n3:memory:/../../etc");
  Write("/sys/fs/cgroup/memory.current", "1");
  for (const char* text : {"max", "-1", "", "ten", "99999999999999999999"}) {
    Write("/sys/fs/cgroup/memory.max", text);
    EXPECT_EQ(UsableMemory(root_).free, 1000 * kMib) << text;
  }
}

}  // namespace
}  // namespace nibble

#include "kernels/cpu/cpu_count.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace nibble {
namespace {

// A /proc and /sys of our own.
class CpuCountTest : public ::testing::Test {
 protected:
  CpuCountTest()
      : root_(::testing::TempDir() + "cpus_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
  }
  ~CpuCountTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text << "\n";
  }

  int AllCpus() const { return static_cast<int>(std::thread::hardware_concurrency()); }

  std::string root_;
};

TEST_F(CpuCountTest, WithoutGroupsItIsTheAffinity) {
  EXPECT_EQ(CgroupCpus(root_), 0);
  EXPECT_EQ(UsableCpus(root_), AllCpus());
}

TEST_F(CpuCountTest, AContainerSeesItsLimitAtTheRoot) {
  Write("/proc/self/cgroup", "0::/");
  Write("/sys/fs/cgroup/cpu.max", "150000 100000");
  EXPECT_EQ(CgroupCpus(root_), 1.5);
  EXPECT_EQ(UsableCpus(root_), std::min(AllCpus(), 2));
  Write("/sys/fs/cgroup/cpu.max", "10000 100000");  // a tenth of a cpu is one thread
  EXPECT_EQ(UsableCpus(root_), 1);
}

TEST_F(CpuCountTest, TheSmallestLimitOnTheWayUpHolds) {
  Write("/proc/self/cgroup", "0::/pods/one/container");
  Write("/sys/fs/cgroup/pods/one/container/cpu.max", "max 100000");
  Write("/sys/fs/cgroup/pods/one/cpu.max", "300000 100000");
  Write("/sys/fs/cgroup/pods/cpu.max", "50000 50000");
  EXPECT_EQ(CgroupCpus(root_), 1);
}

TEST_F(CpuCountTest, ReadsVersionOneToo) {
  Write("/proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "400000");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000");
  EXPECT_EQ(CgroupCpus(root_), 4);
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000");
  EXPECT_EQ(CgroupCpus(root_), 2);
}

TEST_F(CpuCountTest, NoLimitAndNonsenseAreNoLimit) {
  Write("/proc/self/cgroup", "0::/\nnonsense\n3:cpu:/../../etc");
  for (const char* text : {"max 100000", "-1 100000", "100000", "0 100000", "100000 0", "a b", "",
                           "nan 1", "1e300 1e-300"}) {
    Write("/sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(UsableCpus(root_), AllCpus()) << text;
  }
}

}  // namespace
}  // namespace nibble

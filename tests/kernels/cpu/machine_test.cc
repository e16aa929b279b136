#include "kernels/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/machine_peak.h"

namespace nibble {
namespace {

// A /proc and /sys of our own.
class MachineTest : public ::testing::Test {
 protected:
  MachineTest()
      : root_(::testing::TempDir() + "machine_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(root_);
  }
  ~MachineTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text << "\n";
  }
  void WriteCpu(int cpu, const std::string& socket, const std::string& siblings) {
    const std::string folder = Cpu(cpu) + "/topology/";
    Write(folder + "physical_package_id", socket);
    Write(folder + "thread_siblings_list", siblings);
  }
  void WriteCache(int cpu, int index, int level, const std::string& type, const std::string& size,
                  const std::string& shared) {
    const std::string folder = Cpu(cpu) + "/cache/index" + std::to_string(index) + "/";
    Write(folder + "level", std::to_string(level));
    Write(folder + "type", type);
    Write(folder + "size", size);
    Write(folder + "shared_cpu_list", shared);
  }
  static std::string Cpu(int cpu) { return "/sys/devices/system/cpu/cpu" + std::to_string(cpu); }

  std::string root_;
};

TEST_F(MachineTest, CountsCoresSocketsNodesAndSharedCachesOnce) {
  Write("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU 9000\nmodel name\t: not this");
  Write("/proc/meminfo", "MemTotal:       1024 kB\nMemFree: 3 kB");
  Write("/sys/devices/system/cpu/online", "0-3");
  Write("/sys/devices/system/node/online", "0-1");
  for (int cpu = 0; cpu < 4; ++cpu) {  // two cores of two threads, a socket each
    WriteCpu(cpu, cpu < 2 ? "0" : "1", cpu < 2 ? "0-1" : "2-3");
    WriteCache(cpu, 0, 1, "Data", "48K", cpu < 2 ? "0-1" : "2-3");
    WriteCache(cpu, 1, 3, "Unified", "32768K", "0-3");
    WriteCache(cpu, 2, 2, "Unified", "1024K", cpu < 2 ? "0-1" : "2-3");
  }
  const MachineInfo info = DescribeMachine(root_);
  EXPECT_EQ(info.cpu, "Some CPU 9000");
  EXPECT_EQ(info.memory_bytes, 1 << 20);
  EXPECT_EQ(info.num_cpus, 4);
  EXPECT_EQ(info.num_cores, 2);
  EXPECT_EQ(info.num_sockets, 2);
  EXPECT_EQ(info.num_numa_nodes, 2);
  ASSERT_EQ(info.caches.size(), 3u);
  EXPECT_EQ(info.caches[0].size_bytes, 48 << 10);
  EXPECT_EQ(info.caches[0].instances, 2);
  EXPECT_EQ(info.caches[1].level, 2);
  EXPECT_EQ(info.caches[2].instances, 1);
  EXPECT_EQ(info.caches[2].size_bytes, 32 << 20);
}

TEST_F(MachineTest, ListsOfCpusMayHaveHolesAndOfflineCpusDoNotCount) {
  Write("/sys/devices/system/cpu/online", "0,2-3");
  WriteCpu(0, "0", "0");
  std::filesystem::create_directories(root_ + Cpu(1));  // offline: no topology
  WriteCpu(2, "0", "2");
  WriteCpu(3, "0", "3");
  const MachineInfo info = DescribeMachine(root_);
  EXPECT_EQ(info.num_cpus, 3);
  EXPECT_EQ(info.num_cores, 3);
  EXPECT_EQ(info.num_sockets, 1);
}

TEST_F(MachineTest, WhatIsNotKnownIsZeroAndTheInstructionSetStillIs) {
  const MachineInfo info = DescribeMachine(root_);
  EXPECT_EQ(info.cpu, "");
  EXPECT_EQ(info.num_cores, 0);
  EXPECT_EQ(info.num_numa_nodes, 0);
  EXPECT_TRUE(info.caches.empty());
  ASSERT_FALSE(info.isas.empty());
  EXPECT_EQ(info.isas.front().name, "scalar");
}

TEST(DescribeMachineTest, ExactlyOneInstructionSetIsChosenAndItIsTheBest) {
  const MachineInfo info = DescribeMachine();
  int chosen = 0;
  for (const IsaInfo& isa : info.isas) {
    chosen += isa.chosen ? 1 : 0;
    if (isa.chosen) {
      EXPECT_EQ(isa.name, IsaName(DetectIsa()));
    }
  }
  EXPECT_EQ(chosen, 1);
  EXPECT_THAT(info.why, ::testing::HasSubstr(std::string(IsaName(DetectIsa()))));
  EXPECT_THAT(info.attention, ::testing::HasSubstr("products"));
  EXPECT_GE(info.num_usable, 1);
}

TEST(DescribeMachineTest, AnInstructionSetThatRunsHasItsFeatures) {
  const MachineInfo info = DescribeMachine();
  for (const IsaInfo& isa : info.isas) {
    if (isa.name == "avx2") {
      EXPECT_THAT(info.features, ::testing::Contains("fma"));
    }
    if (isa.name == "avx512_vnni") {
      EXPECT_THAT(info.features, ::testing::Contains("avx512vnni"));
    }
  }
}

// A clock on which every look takes a second: rates are then counts, the same on any machine.
TEST(MeasurePeaksTest, RatesAreWorkOverTimeOfEveryInstructionSet) {
  for (const CpuIsa isa : SupportedIsas()) {
    double now = 0;
    CpuOptions options;
    options.isa = isa;
    options.num_threads = 2;
    constexpr int64_t kWeights = 1000000;
    const auto peaks = MeasurePeaks(options, kWeights, [&now] { return now += 1; });
    ASSERT_TRUE(peaks.ok()) << peaks.status();
    EXPECT_EQ(peaks->isa, IsaName(isa));
    EXPECT_EQ(peaks->num_threads, 2);
    EXPECT_EQ(peaks->bandwidth_bytes, 977 * 1024) << "whole steps";
    EXPECT_DOUBLE_EQ(peaks->bandwidth_bytes_per_s, 977 * 1024);
    EXPECT_DOUBLE_EQ(peaks->memory_bytes_per_s, static_cast<double>(peaks->memory_bytes));
    EXPECT_GT(peaks->memory_bytes, peaks->bandwidth_bytes);
    EXPECT_GE(peaks->int8_macs_per_s, 2 * 4 * 20000 * 64);
    EXPECT_GE(peaks->f32_macs_per_s, 2 * 4 * 20000 * 64);
    const bool bf16 = ChooseAttention(isa, options.activations).products == DType::kBf16;
    EXPECT_DOUBLE_EQ(peaks->barriers_per_s, 1000);
    EXPECT_DOUBLE_EQ(peaks->attention_macs_per_s, (bf16 ? 2 : 1) * peaks->f32_macs_per_s);
  }
}

TEST(MeasurePeaksTest, WhatTheMachineLacksOrNobodyCanReadIsRefused) {
  const auto now = [] { return 0.0; };
  EXPECT_EQ(MeasurePeaks({}, 0, now).status().code(), absl::StatusCode::kInvalidArgument);
  CpuOptions options;
  options.num_threads = -1;
  EXPECT_EQ(MeasurePeaks(options, 1, now).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PeakKernelsTest, ReadSeesEveryByte) {
  std::vector<const cpu::PeakKernels*> kernels = {&cpu::kScalarPeak};
  for (const CpuIsa isa : SupportedIsas()) {
    if (isa == CpuIsa::kAvx2) kernels.push_back(&cpu::kAvx2Peak);
    if (isa == CpuIsa::kAvx512Vnni) kernels.push_back(&cpu::kAvx512Peak);
  }
  alignas(64) static uint8_t data[2048];
  for (const cpu::PeakKernels* kernel : kernels) {
    ASSERT_EQ(kernel->read(data, sizeof(data)), 0u);
    for (size_t i = 0; i < sizeof(data); ++i) {
      data[i] = 0x40;
      EXPECT_NE(kernel->read(data, sizeof(data)), 0u) << "byte " << i;
      data[i] = 0;
    }
  }
}

}  // namespace
}  // namespace nibble

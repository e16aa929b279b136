// Device (kernels/cuda/runtime.h) on the emulator: copies, the fault that is kept, graphs that
// replay with the memory of the moment, and what a capture may not contain.
#include "kernels/cuda/runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "emulator/gpu.h"
#include "kernels/cuda/rows.h"

namespace nibble::cuda {
namespace {

using emulator::TheGpu;
using testing::HasSubstr;

class DeviceTest : public testing::Test {
 protected:
  DeviceTest() : device_(Device::Open(0).value()) {}
  ~DeviceTest() override { TheGpu().TakeFault(); }

  int32_t* Ints(const std::vector<int32_t>& values) {
    auto* const memory = static_cast<int32_t*>(device_->Allocate(Bytes(values)));
    device_->Upload(memory, values.data(), Bytes(values));
    return memory;
  }
  static int64_t Bytes(const std::vector<int32_t>& values) {
    return static_cast<int64_t>(values.size()) * 4;
  }
  std::vector<int32_t> Read(const int32_t* from, size_t n) {
    std::vector<int32_t> values(n);
    device_->Download(values.data(), from, Bytes(values));
    return values;
  }
  // out[r] = row ids[r] of x, rows of 4 ints.
  void Gather(const int32_t* x, const int32_t* ids, int32_t rows, int32_t* out) {
    const GatherCall call{
        .x = x, .x_stride = 8, .ids = ids, .rows = rows, .cols = 8, .out = out, .out_stride = 8};
    device_->Keep(LaunchGather(call, device_->stream()), "gather");
  }

  std::unique_ptr<Device> device_;
};

TEST_F(DeviceTest, CopiesWhatTheHostHeldWhenItWasAsked) {
  std::vector<int32_t> values(100);
  auto* const memory = static_cast<int32_t*>(device_->Allocate(Bytes(values)));
  EXPECT_EQ(Read(memory, 100), std::vector<int32_t>(100, 0)) << "memory comes as zeros";
  for (int32_t round = 0; round < 9; ++round) {  // more than there are stagings
    values.assign(100, round);
    device_->Upload(memory, values.data(), Bytes(values));
    values.assign(100, -1);
    EXPECT_EQ(Read(memory, 100), std::vector<int32_t>(100, round));
  }
  const std::vector<int32_t> large(1 << 19, 7);  // past the stagings
  EXPECT_EQ(Read(Ints(large), large.size()), large);
  EXPECT_TRUE(device_->Synchronize().ok());
}

TEST_F(DeviceTest, ADownloadThatDoesNotWaitIsThereAfterTheWait) {
  int32_t* const from = Ints({1, 2, 3, 4});
  int32_t* const to = Ints({0, 0, 0, 0});
  TheGpu().ResetCounts();
  device_->CopyOnDevice(to, from, 16);
  const uint8_t* const arriving = device_->StartDownload(to, 16);
  device_->Wait();
  EXPECT_EQ(std::memcmp(arriving, Read(from, 4).data(), 16), 0);
  EXPECT_EQ(TheGpu().counts().copies_on_device, 1u);
  EXPECT_EQ(TheGpu().counts().copies_to_host, 2u);
  EXPECT_EQ(TheGpu().counts().copies_to_device, 0u);
  EXPECT_TRUE(device_->Synchronize().ok());
}

TEST_F(DeviceTest, TellsThatThereIsNoRoomWithoutAFault) {
  EXPECT_EQ(device_->Allocate(int64_t{1} << 40), nullptr);
  EXPECT_TRUE(device_->Synchronize().ok());
  EXPECT_GT(device_->free_bytes(), 0);
}

TEST_F(DeviceTest, NamesTheDevicesThereAre) {
  const absl::Status status = Device::Open(3).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cuda:3 is not usable: this machine has 1"));
}

// Below 8.0 instructions are missing, above 9.0 the program has no machine code.
TEST_F(DeviceTest, RefusesCapabilitiesWithoutKernels) {
  for (const auto& [major, minor] : {std::pair(7, 5), std::pair(10, 0), std::pair(12, 0)}) {
    TheGpu().SetCapability(major, minor);
    const absl::Status status = FindDevice(0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("this program has kernels for 8.0 to 9.0"));
  }
  TheGpu().SetCapability(8, 0);
  EXPECT_TRUE(FindDevice(0).ok());
}

TEST_F(DeviceTest, AGraphRunsAgainOnWhatMemoryHoldsThen) {
  int32_t* const x = Ints({1, 1, 1, 1, 2, 2, 2, 2});
  int32_t* const ids = Ints({1});
  int32_t* const out = Ints({0, 0, 0, 0});
  const std::unique_ptr<Graph> graph = device_->Capture([&] { Gather(x, ids, 1, out); });
  ASSERT_NE(graph, nullptr);
  EXPECT_EQ(Read(out, 4), std::vector<int32_t>(4, 0)) << "a capture runs nothing";
  device_->Launch(*graph);
  EXPECT_EQ(Read(out, 4), std::vector<int32_t>(4, 2));
  const int32_t zero = 0;
  device_->Upload(ids, &zero, 4);
  device_->Launch(*graph);
  EXPECT_EQ(Read(out, 4), std::vector<int32_t>(4, 1));
  EXPECT_TRUE(device_->Synchronize().ok());
}

TEST_F(DeviceTest, ACaptureThatWaitsOrAllocatesIsLost) {
  int32_t* const x = Ints({1, 1, 1, 1});
  EXPECT_EQ(device_->Capture([&] { Read(x, 4); }), nullptr);
  EXPECT_EQ(device_->Capture([&] { device_->Allocate(16); }), nullptr);
  EXPECT_TRUE(device_->Synchronize().ok()) << "nothing ran, nothing is kept";
  EXPECT_EQ(Read(x, 4), std::vector<int32_t>(4, 1)) << "and the device goes on";
}

TEST_F(DeviceTest, AFaultBeforeACaptureIsKept) {
  device_->Keep(cudaErrorInvalidValue, "before");
  EXPECT_EQ(device_->Capture([] {}), nullptr);
  EXPECT_THAT(std::string(device_->Synchronize().message()), HasSubstr("op 'before'"));
}

TEST_F(DeviceTest, KeepsTheFirstFaultUntilItIsAskedFor) {
  int32_t* const x = Ints({1, 1, 1, 1});
  int32_t* const ids = Ints({1 << 20});  // far outside
  Gather(x, ids, 1, x);
  device_->Keep(cudaErrorInvalidValue, "a later one");
  EXPECT_TRUE(device_->faulted());
  const absl::Status status = device_->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("op 'gather' on cuda:0"));
}

}  // namespace
}  // namespace nibble::cuda

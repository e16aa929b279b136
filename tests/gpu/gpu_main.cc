// main of the tests that run on a device. Exit code 77, which ctest takes for skipped, and one line
// where there is none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/runtime.h"

namespace {

// What only the emulator can do.
constexpr const char* kEmulatorOnly[] = {
    // its counters
    "*AsksFor*", "*AskFor*", "Counters.*", "*FitsTheSmallestDevice*", "SamplingTest.OneLaunch*",
    "SamplingTest.ASmallWorkspace*",
    // a fault that leaves the process usable
    "*PlantedFault*", "Emulator.KeepsAFault*", "DeviceTest.KeepsTheFirstFault*",
    "*AFaultOfAKernel*",
    // its name, its one device, its memory
    "*SaysWhatItIs*", "DeviceTest.NamesTheDevices*", "*WhatDoesNotFit*", "CudaLoadTest.*"};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  // Listing needs no device.
  if (!testing::GTEST_FLAG(list_tests)) {
    if (const auto device = nibble::cuda::FindDevice(0); !device.ok()) {
      std::printf("SKIPPED: %s\n", std::string(device.status().message()).c_str());
      return 77;
    }
  }
  std::string filter = testing::GTEST_FLAG(filter);
  filter += filter.find('-') == std::string::npos ? "-" : ":";
  for (const char* pattern : kEmulatorOnly) filter += std::string(pattern) + ":";
  testing::GTEST_FLAG(filter) = filter;
  return RUN_ALL_TESTS();
}

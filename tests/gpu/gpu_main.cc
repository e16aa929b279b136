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
    "*AsksFor*", "*AskFor*", "Counters.*", "*FitsTheSmallestDevice*", "SamplingTest.DrawsAtOnce*",
    "*ASmallWorkspace*", "DeviceTest.ADownloadThatDoesNotWait*", "StepGraphs.AReplayIsOneLaunch*",
    "StepGraphs.SeveralDraws*", "*DependentLaunchesFetch*", "*ANormAndItsCodesAreOneLaunch*",
    "*WideRowsAreTheProductsOfTheSameCodes*", "*CountersTell*",
    // a fault that leaves the process usable
    "*PlantedFault*", "Emulator.KeepsAFault*", "DeviceTest.KeepsTheFirstFault*",
    "*AFaultOfAKernel*",
    // registers that hold nothing yet
    "Emulator.GivesAccumulators*",
    // its name, its one device, its memory and its choice of a compute capability
    "*SaysWhatItIs*", "DeviceTest.NamesTheDevices*", "*WhatDoesNotFitIsTold*", "CudaLoadTest.*",
    "DeviceMemoryTest.*", "DeviceTest.RefusesCapabilities*", "W8A8.IsChosenByTheDevice*",
    "*PackedBytesOfAnotherDevice*"};

// Tests that have the emulator be of 9.0; another device need not have the units.
constexpr const char* kOfHopper[] = {"W8A8.*",
                                     "*W8A8Test*",
                                     "*ByWarpGroups*",
                                     "*GroupProductTest*",
                                     "Emulator.CopiesRows*",
                                     "Emulator.MakesNoMap*"};

std::string Excluded(const nibble::cuda::DeviceProperties& device) {
  std::string patterns;
  for (const char* pattern : kEmulatorOnly) patterns += std::string(pattern) + ":";
  if (device.major == 9) return patterns;
  for (const char* pattern : kOfHopper) patterns += std::string(pattern) + ":";
  return patterns;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();  // needs no device
  const auto device = nibble::cuda::FindDevice(0);
  if (!device.ok()) {
    std::printf("SKIPPED: %s\n", std::string(device.status().message()).c_str());
    return 77;
  }
  std::string& filter = testing::GTEST_FLAG(filter);
  filter += filter.find('-') == std::string::npos ? "-" : ":";
  filter += Excluded(*device);
  return RUN_ALL_TESTS();
}

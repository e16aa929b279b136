// Kernels with one defect each, for the tests of the emulator.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cuda {

struct PlantedFault {
  std::string name;
  std::string
      story;  // a regular expression for a part of the fault's text; empty: the kernel is right
  cudaError_t (*run)(float* in, float* out);
};

// `in` holds kFaultFloats written floats, `out` as many that nobody wrote.
inline constexpr int kFaultFloats = 1024;
std::vector<PlantedFault> PlantedFaults();
std::vector<PlantedFault> PlantedBulkFaults();
std::vector<PlantedFault> PlantedDependentFaults();
std::vector<PlantedFault> PlantedGroupFaults();

// A product's accumulators [2, 128 threads], before they are waited for and afterwards.
cudaError_t ReadAccumulatorsEarly(float* in, float* out);

}  // namespace nibble::cuda

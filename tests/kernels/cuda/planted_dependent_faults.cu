// Faults of dependent launches, which start while the launch before them may still write `out`.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "planted_faults.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 64;
struct Shared {
  float values[4 * kThreads];
};

__global__ void WritesAll(float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }
__global__ void DependentWaits(float* in, float* out) {
  const float weight = in[threadIdx.x];  // the host's
  ptx::WaitForLaunches();
  out[threadIdx.x] += weight;
}
__global__ void DependentReadsEarly(float*, float* out) {
  const float activation = out[threadIdx.x];
  ptx::WaitForLaunches();
  out[threadIdx.x] = activation + 1;
}
__global__ void DependentCopiesEarly(float*, float* out) {
  ptx::CopyAsync16(ptx::SharedAddress(&SharedMemory<Shared>().values[4 * threadIdx.x]),
                   out + threadIdx.x % 16 * 4);
  ptx::WaitForLaunches();
  ptx::CommitCopies();
  ptx::WaitCopies<0>();
}
__global__ void DependentWritesEarly(float*, float* out) {
  out[threadIdx.x] = 1;
  ptx::WaitForLaunches();
}
__global__ void DependentNeverWaits(float*, float*) {}
__global__ void HalfOfDependentWaits(float*, float*) {
  if (threadIdx.x < kThreads / 2) ptx::WaitForLaunches();
}

using Kernel = void (*)(float*, float*);
// The launch in the middle is a dependent one as well, so that the first may still run beside the
// last.
template <Kernel kKernel>
cudaError_t RunDependent(float* in, float* out) {
  const auto launch = [&](Kernel kernel, bool dependent) {
    return Launch(kernel, {dim3(1), dim3(kThreads), sizeof(Shared), nullptr, dependent}, in, out);
  };
  launch(WritesAll, false);
  launch(DependentWaits, true);
  return launch(kKernel, true);
}

}  // namespace

std::vector<PlantedFault> PlantedDependentFaults() {
  return {
      {"DependentWaits", "", RunDependent<DependentWaits>},
      {"DependentReadsEarly",
       "read of 4 bytes: global memory that a launch wrote which may still run",
       RunDependent<DependentReadsEarly>},
      {"DependentCopiesEarly",
       "asynchronous copy: global memory that a launch wrote which may still run",
       RunDependent<DependentCopiesEarly>},
      {"DependentWritesEarly", "write of 4 bytes: global memory before the wait",
       RunDependent<DependentWritesEarly>},
      {"DependentNeverWaits", "exits a dependent launch without waiting",
       RunDependent<DependentNeverWaits>},
      {"HalfOfDependentWaits", "exits a dependent launch without waiting",
       RunDependent<HalfOfDependentWaits>},
  };
}

}  // namespace nibble::cuda

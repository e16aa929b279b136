// How kernels are started: the one place, so that launch attributes (and the emulator) have one
// home.
#pragma once

#include "kernels/cuda/device.cuh"

namespace nibble::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic; above 48 KB the kernel's limit is raised first
  cudaStream_t stream = nullptr;
  // May start while the launches before it still run (sm_90), up to ptx::WaitForLaunches. REQUIRES
  // a kernel in which every thread calls that.
  bool dependent = false;
};

// Asynchronous; the error is the launch's, never the kernel's.
template <class... Parameters, class... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                   Arguments... arguments) {
  constexpr size_t kFreeShared =
      48 << 10;  // what every kernel may have without asking (CUDA guide, 20.7)
  if (shape.shared_bytes > kFreeShared) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
#ifdef __CUDACC__
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = shape.dependent ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#else
  return emulator::Launch(
      {shape.grid, shape.block, shape.shared_bytes, reinterpret_cast<const void*>(kernel),
       [kernel, arguments...] { kernel(Parameters(arguments)...); }, shape.dependent});
#endif
}

// The block's dynamic shared memory, 1,024-byte aligned; no kernel has any other.
template <class T>
__device__ __forceinline__ T& SharedMemory() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) uint8_t nibble_shared_memory[];
  return *reinterpret_cast<T*>(nibble_shared_memory);
#else
  return *reinterpret_cast<T*>(emulator::DynamicShared());
#endif
}

}  // namespace nibble::cuda

// What a .cu file sees of CUDA C++ when g++ compiles it for the emulator: NVIDIA's own headers for
// the types, and the language's words with a meaning for the host.
#pragma once

#include <cuda_runtime.h>

#include "emulator/gpu.h"

// The words of the language; kernels take their shared memory from SharedMemory() in
// kernels/cuda/launch.cuh.
#undef __global__
#undef __device__
#undef __launch_bounds__
#undef __shared__
#undef __grid_constant__
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static_assert(false, "take SharedMemory<T>()")

#define threadIdx (::nibble::emulator::TheGpu().block().thread().index)
#define blockIdx (::nibble::emulator::TheGpu().block().block_index())
#define blockDim (::nibble::emulator::TheGpu().block().block_dim())
#define gridDim (::nibble::emulator::TheGpu().block().grid_dim())

// What a .cu file is compiled against: CUDA under nvcc, and under g++ the emulator of a thread
// block (tests/kernels/cuda/emulator), which gives __global__, threadIdx and the like a meaning on
// the host.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "emulator/device.h"
#endif

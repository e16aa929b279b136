// The functions of the CUDA runtime that the kernels' hosts use, with the signatures of NVIDIA's
// own header, on the emulated device. Every stream runs at once, in the order of the calls.
#include <cuda_runtime_api.h>

#include <cstring>

#include "emulator/gpu.h"

namespace {

using nibble::emulator::GlobalMemory;
using nibble::emulator::Gpu;
using nibble::emulator::TheGpu;

// Device ranges must be live; anything else is host memory.
bool IsUsable(const void* pointer, size_t bytes) {
  const GlobalMemory& memory = TheGpu().memory();
  return !memory.Owns(pointer) || memory.IsLive(pointer, bytes);
}

void MarkIfDevice(const void* pointer, size_t bytes) {
  GlobalMemory& memory = TheGpu().memory();
  if (memory.Owns(pointer)) memory.MarkSeenByAll(pointer, bytes);
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  *pointer = TheGpu().memory().Allocate(bytes);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : TheGpu().error();
}

cudaError_t cudaFree(void* pointer) {
  return pointer == nullptr || TheGpu().memory().Free(pointer) ? TheGpu().error()
                                                               : cudaErrorInvalidValue;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (TheGpu().error() != cudaSuccess) return TheGpu().error();
  if (!IsUsable(to, bytes) || !IsUsable(from, bytes)) return cudaErrorInvalidValue;
  std::memcpy(to, from, bytes);
  MarkIfDevice(to, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (TheGpu().error() != cudaSuccess) return TheGpu().error();
  if (!IsUsable(to, bytes)) return cudaErrorInvalidValue;
  std::memset(to, value, bytes);
  MarkIfDevice(to, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const bool is_shared = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (!is_shared || value < 0 ||
      value > static_cast<int>(nibble::emulator::SharedMemory::kMaxBytes)) {
    return cudaErrorInvalidValue;
  }
  TheGpu().AllowShared(function, static_cast<size_t>(value));
  return TheGpu().error();
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return TheGpu().error(); }
cudaError_t cudaDeviceSynchronize() { return TheGpu().error(); }
cudaError_t cudaGetLastError() { return TheGpu().error(); }

}  // extern "C"

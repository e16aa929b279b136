// The functions of the CUDA runtime that the kernels' hosts and the backend use, with the
// signatures of NVIDIA's own header, on the emulated device. Every stream runs at once, in the
// order of the calls; a captured graph runs its work again in the order it was recorded. What a
// real device refuses inside a capture (to wait, to allocate) breaks it here as well.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>

#include "emulator/gpu.h"
#include "emulator/tensor_map.h"

// The runtime's handles are pointers to these, which only this file knows.
struct CUstream_st {};
struct CUevent_st {};
struct CUgraph_st {
  nibble::emulator::Recorded recorded;
};
struct CUgraphExec_st {
  nibble::emulator::Recorded recorded;
};

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

// For calls that a capture may not contain.
cudaError_t OutsideCapture() {
  if (!TheGpu().capturing()) return TheGpu().error();
  TheGpu().BreakCapture();
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t CopyNow(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (!IsUsable(to, bytes) || !IsUsable(from, bytes)) return cudaErrorInvalidValue;
  const bool to_device = kind != cudaMemcpyDeviceToHost,
             on_device = kind == cudaMemcpyDeviceToDevice;
  if (TheGpu().memory().Owns(to) != to_device) return cudaErrorInvalidMemcpyDirection;
  if (TheGpu().memory().Owns(from) == (kind == cudaMemcpyHostToDevice))
    return cudaErrorInvalidMemcpyDirection;
  nibble::emulator::Counts& counts = TheGpu().counts();
  ++(on_device ? counts.copies_on_device
               : (to_device ? counts.copies_to_device : counts.copies_to_host));
  std::memcpy(to, from, bytes);
  MarkIfDevice(to, bytes);
  return cudaSuccess;
}

}  // namespace

extern "C" {

// --- the device

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? TheGpu().error() : cudaErrorInvalidDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated thread block");
  std::tie(properties->major, properties->minor) = TheGpu().capability();
  properties->totalGlobalMem = TheGpu().memory().total_bytes();
  properties->multiProcessorCount = 1;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = TheGpu().memory().free_bytes();
  *total_bytes = TheGpu().memory().total_bytes();
  return TheGpu().error();
}

// --- memory

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t error = OutsideCapture(); error != cudaSuccess) return error;
  *pointer = TheGpu().memory().Allocate(bytes);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : TheGpu().error();
}

cudaError_t cudaFree(void* pointer) {
  return pointer == nullptr || TheGpu().memory().Free(pointer) ? TheGpu().error()
                                                               : cudaErrorInvalidValue;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  if (const cudaError_t error = OutsideCapture(); error != cudaSuccess) return error;
  *pointer = std::malloc(bytes == 0 ? 1 : bytes);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return TheGpu().Do([=] { return CopyNow(to, from, bytes, kind); });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = OutsideCapture(); error != cudaSuccess) return error;
  return CopyNow(to, from, bytes, kind);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return TheGpu().Do([=] {
    if (!IsUsable(to, bytes)) return cudaErrorInvalidValue;
    std::memset(to, value, bytes);
    MarkIfDevice(to, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (const cudaError_t error = OutsideCapture(); error != cudaSuccess) return error;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

// --- kernels

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const bool is_shared = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (!is_shared || value < 0 ||
      value > static_cast<int>(nibble::emulator::SharedMemory::kMaxBytes)) {
    return cudaErrorInvalidValue;
  }
  TheGpu().AllowShared(function, static_cast<size_t>(value));
  return TheGpu().error();
}

// --- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  *stream = new CUstream_st;
  return TheGpu().error();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return OutsideCapture(); }
cudaError_t cudaDeviceSynchronize() { return OutsideCapture(); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = new CUevent_st;
  return TheGpu().error();
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return TheGpu().error(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return OutsideCapture(); }

// --- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  return TheGpu().StartCapture() ? TheGpu().error() : cudaErrorIllegalState;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::unique_ptr<nibble::emulator::Recorded> recorded = TheGpu().EndCapture();
  if (recorded == nullptr) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st{std::move(*recorded)};
  return TheGpu().error();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->recorded};
  return TheGpu().error();
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  ++TheGpu().counts().graph_launches;
  for (const auto& work : exec->recorded.work) {
    if (const cudaError_t error = TheGpu().Do(work); error != cudaSuccess) return error;
  }
  return TheGpu().error();
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

// --- the driver's functions, those that are asked for by name

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned int,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool is_known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = is_known ? reinterpret_cast<void*>(&nibble::emulator::EncodeTensorMap) : nullptr;
  if (result != nullptr)
    *result = is_known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// --- errors

cudaError_t cudaGetLastError() { return TheGpu().error(); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    default:
      return "an error the emulator has no words for";
  }
}

}  // extern "C"

#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace nibble::cuda {
namespace {

constexpr int32_t kLeastMajor = 8;  // cp.async, mma of bf16, ldmatrix
constexpr int32_t kMostMajor = 9;   // of those the program has machine code for (CMakeLists.txt)

absl::Status NotUsable(int32_t ordinal, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("cuda:", ordinal, " is not usable: ", why));
}

std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

absl::Status WithoutDevices(int32_t ordinal, cudaError_t error) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) {
    return NotUsable(ordinal,
                     "this machine has no NVIDIA driver (libcuda.so.1 was not found or does not "
                     "start); --device cpu runs without one");
  }
  if (error == cudaErrorInsufficientDriver) {
    return NotUsable(
        ordinal, absl::StrCat("the NVIDIA driver supports CUDA ", Version(driver), ", needed is ",
                              Version(CUDART_VERSION), "; update the driver or use --device cpu"));
  }
  return NotUsable(ordinal,
                   absl::StrCat("the NVIDIA driver lists no device: ", cudaGetErrorString(error)));
}

}  // namespace

absl::StatusOr<DeviceProperties> FindDevice(int32_t ordinal) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return WithoutDevices(ordinal, error == cudaSuccess ? cudaErrorNoDevice : error);
  }
  if (ordinal < 0 || ordinal >= count) {
    return NotUsable(ordinal, absl::StrCat("this machine has ", count,
                                           " CUDA device(s), cuda:0 .. cuda:", count - 1));
  }
  cudaDeviceProp found;
  if (const cudaError_t failed = cudaGetDeviceProperties(&found, ordinal); failed != cudaSuccess) {
    return NotUsable(ordinal, cudaGetErrorString(failed));
  }
  DeviceProperties properties;
  properties.ordinal = ordinal;
  properties.name = found.name;
  properties.major = found.major;
  properties.minor = found.minor;
  properties.multiprocessors = found.multiProcessorCount;
  properties.memory_bytes = static_cast<int64_t>(found.totalGlobalMem);
  if (properties.major < kLeastMajor || properties.major > kMostMajor) {
    return NotUsable(
        ordinal, absl::StrCat(properties.name, " has compute capability ", properties.major, ".",
                              properties.minor, ", this program has kernels for 8.0 to 9.0"));
  }
  return properties;
}

Graph::~Graph() {
  if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
}

absl::StatusOr<std::unique_ptr<Device>> Device::Open(int32_t ordinal) {
  absl::StatusOr<DeviceProperties> properties = FindDevice(ordinal);
  if (!properties.ok()) return properties.status();
  std::unique_ptr<Device> device(new Device(*std::move(properties)));
  if (const absl::Status status = device->Prepare(); !status.ok()) return status;
  return device;
}

absl::Status Device::Prepare() {
  cudaError_t error = cudaSetDevice(properties_.ordinal);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  for (Staging& staging : stagings_) {
    if (error == cudaSuccess) error = cudaMallocHost(&staging.host, kStagingBytes);
    if (error == cudaSuccess) {
      error = cudaEventCreateWithFlags(&staging.done, cudaEventDisableTiming);
    }
  }
  if (error == cudaSuccess) error = cudaMallocHost(&results_, kResultBytes);
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name(), " (", properties_.name,
                                          ") does not start: ", cudaGetErrorString(error)));
}

Device::~Device() {
  cudaSetDevice(properties_.ordinal);
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (const Staging& staging : stagings_) {
    if (staging.done != nullptr) cudaEventDestroy(staging.done);
    if (staging.host != nullptr) cudaFreeHost(staging.host);
  }
  if (results_ != nullptr) cudaFreeHost(results_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

std::string Device::name() const { return absl::StrCat("cuda:", properties_.ordinal); }

int64_t Device::free_bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t free_bytes = 0, total = 0;
  cudaSetDevice(properties_.ordinal);
  return cudaMemGetInfo(&free_bytes, &total) == cudaSuccess ? static_cast<int64_t>(free_bytes) : 0;
}

void* Device::Allocate(int64_t size_bytes) {
  NIBBLE_CHECK(size_bytes >= 0);
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto size = static_cast<size_t>(std::max<int64_t>(size_bytes, 1));
  void* pointer = nullptr;
  cudaSetDevice(properties_.ordinal);  // of this thread
  if (cudaMalloc(&pointer, size) != cudaSuccess) {
    cudaGetLastError();  // there being no room is the caller's to tell, not a fault to keep
    return nullptr;
  }
  KeepLocked(cudaMemsetAsync(pointer, 0, size, stream_), "allocate");
  return pointer;
}

void Device::Free(void* pointer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cudaSetDevice(properties_.ordinal);
  cudaFree(pointer);  // waits for the device
}

void Device::Upload(void* device, const void* host, int64_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cudaSetDevice(properties_.ordinal);
  if (size_bytes > kStagingBytes) {
    KeepLocked(cudaMemcpyAsync(device, host, static_cast<size_t>(size_bytes),
                               cudaMemcpyHostToDevice, stream_),
               "copy to device");
    KeepLocked(cudaStreamSynchronize(stream_), "copy to device");
    return;
  }
  Staging& staging = stagings_[next_staging_];
  next_staging_ = (next_staging_ + 1) % kStagings;
  if (staging.used) KeepLocked(cudaEventSynchronize(staging.done), "copy to device");
  std::memcpy(staging.host, host, static_cast<size_t>(size_bytes));
  KeepLocked(cudaMemcpyAsync(device, staging.host, static_cast<size_t>(size_bytes),
                             cudaMemcpyHostToDevice, stream_),
             "copy to device");
  KeepLocked(cudaEventRecord(staging.done, stream_), "copy to device");
  staging.used = true;
}

void Device::Download(void* host, const void* device, int64_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  cudaSetDevice(properties_.ordinal);
  KeepLocked(cudaMemcpyAsync(host, device, static_cast<size_t>(size_bytes), cudaMemcpyDeviceToHost,
                             stream_),
             "copy to host");
  KeepLocked(cudaStreamSynchronize(stream_), "copy to host");
}

const uint8_t* Device::StartDownload(const void* device, int64_t size_bytes) {
  NIBBLE_CHECK(size_bytes <= kResultBytes);
  Keep(cudaMemcpyAsync(results_, device, static_cast<size_t>(size_bytes), cudaMemcpyDeviceToHost,
                       stream_),
       "copy to host");
  return static_cast<const uint8_t*>(results_);
}

void Device::CopyOnDevice(void* to, const void* from, int64_t size_bytes) {
  Keep(
      cudaMemcpyAsync(to, from, static_cast<size_t>(size_bytes), cudaMemcpyDeviceToDevice, stream_),
      "copy on device");
}

std::unique_ptr<Graph> Device::Capture(absl::FunctionRef<void()> work) {
  if (faulted()) return nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  // Relaxed would let this thread allocate meanwhile; nothing here should.
  cudaError_t error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) {
    work();
    error = cudaStreamEndCapture(stream_, &graph);
  }
  if (error == cudaSuccess) error = cudaGraphInstantiate(&exec, graph, 0);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (error == cudaSuccess && !faulted()) return std::make_unique<Graph>(exec);
  if (exec != nullptr) cudaGraphExecDestroy(exec);
  cudaGetLastError();
  ForgetFault();  // nothing ran: whatever is wrong will be met again
  return nullptr;
}

void Device::Launch(const Graph& graph) { Keep(cudaGraphLaunch(graph.exec(), stream_), "step"); }

void Device::Keep(cudaError_t error, absl::string_view op) {
  const std::lock_guard<std::mutex> lock(mutex_);
  KeepLocked(error, op);
}

void Device::KeepLocked(cudaError_t error, absl::string_view op) {
  if (error == cudaSuccess || !fault_.empty()) return;
  fault_ = absl::StrCat("op '", op, "' on ", name(), ": ", cudaGetErrorString(error));
}

void Device::KeepFault(std::string fault) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (fault_.empty()) fault_ = std::move(fault);
}

void Device::ForgetFault() {
  const std::lock_guard<std::mutex> lock(mutex_);
  fault_.clear();
}

bool Device::faulted() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !fault_.empty();
}

void Device::Wait() { Keep(cudaStreamSynchronize(stream_), "a kernel of this step"); }

absl::Status Device::Synchronize() {
  const std::lock_guard<std::mutex> lock(mutex_);
  KeepLocked(cudaStreamSynchronize(stream_), "a kernel of this step");
  if (fault_.empty()) return absl::OkStatus();
  return absl::InternalError(std::exchange(fault_, {}));
}

}  // namespace nibble::cuda

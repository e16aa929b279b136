// The CUDA runtime as the backend uses it: one device, one stream, and the rule that an error is
// kept until somebody asks. All calls go to functions of NVIDIA's runtime API, which is linked
// statically and loads the driver (libcuda) when first asked for a device; the tests link the
// emulator's functions of the same names instead.
//
// Threads: Allocate, Free, Upload and Download from any thread, one after another (a lock); the
// rest from the thread that runs steps. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace nibble::cuda {

struct DeviceProperties {
  int32_t ordinal = 0;
  std::string name;              // "NVIDIA H100 80GB HBM3"
  int32_t major = 0, minor = 0;  // compute capability
  int32_t multiprocessors = 0;
  int64_t memory_bytes = 0;
};

// FAILED_PRECONDITION says why there is none to use: no driver, one too old, no such device, or a
// compute capability that the program has no kernels for.
absl::StatusOr<DeviceProperties> FindDevice(int32_t ordinal);

// A step's work, recorded once and launched as a whole.
class Graph {
 public:
  explicit Graph(cudaGraphExec_t exec) : exec_(exec) {}
  Graph(Graph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  Graph& operator=(Graph&&) = delete;
  ~Graph();
  cudaGraphExec_t exec() const { return exec_; }

 private:
  cudaGraphExec_t exec_;
};

class Device {
 public:
  static constexpr int64_t kStagingBytes = 1 << 20;   // of an upload that does not wait
  static constexpr int64_t kResultBytes = 256 << 10;  // of a download that does not

  // Errors of FindDevice; INTERNAL when the device is there but gives no stream.
  static absl::StatusOr<std::unique_ptr<Device>> Open(int32_t ordinal);
  Device(const Device&) = delete;
  ~Device();

  const DeviceProperties& properties() const { return properties_; }
  std::string name() const;  // "cuda:0"
  int64_t free_bytes();
  cudaStream_t stream() const { return stream_; }

  // Whether kernels that can may start before those before them end (launch.cuh). False below
  // compute capability 9.0, whatever was asked for.
  void AllowDependentLaunches(bool allow) { dependent_launches_ = allow && properties_.major >= 9; }
  bool dependent_launches() const { return dependent_launches_; }
  // Products of warp groups (ptx_warp_group.cuh), which later devices have no longer.
  bool has_warp_groups() const { return properties_.major == 9 && properties_.minor == 0; }

  // For the calling thread, which has one current device in the runtime. Upload and Download do it
  // as well.
  void MakeCurrent() { Keep(cudaSetDevice(properties_.ordinal), "step"); }

  // 256-byte aligned, zero-filled; null when there is no room.
  void* Allocate(int64_t size_bytes);
  void Free(void* pointer);

  // After all that the stream was given before. The host's bytes may change as soon as it returns;
  // up to kStagingBytes it does not wait for the device.
  void Upload(void* device, const void* host, int64_t size_bytes);
  // Waits for the stream.
  void Download(void* host, const void* device, int64_t size_bytes);
  // Does not wait: the bytes are there after the next Synchronize or Wait, until the next call of
  // this. REQUIRES at most kResultBytes.
  const uint8_t* StartDownload(const void* device, int64_t size_bytes);
  // From one place on the device to another; may be captured.
  void CopyOnDevice(void* to, const void* from, int64_t size_bytes);

  // What `work` gives to the stream, recorded instead of done; null when it did what a capture may
  // not contain, when its kernels were refused, or when there is a fault already. Nothing ran then,
  // no fault is kept, and `work` may be called again without a capture.
  std::unique_ptr<Graph> Capture(absl::FunctionRef<void()> work);
  void Launch(const Graph& graph);

  // Keeps the first error with the name of who met it; cudaSuccess is none.
  void Keep(cudaError_t error, absl::string_view op);
  void KeepFault(std::string fault);
  bool faulted();
  // Waits for the stream; what went wrong is kept.
  void Wait();
  // Waits for the stream; INTERNAL with the first fault since the last call.
  absl::Status Synchronize();

 private:
  static constexpr int kStagings = 4;  // uploads on their way at once
  struct Staging {
    void* host = nullptr;  // pinned, so that the copy is asynchronous
    cudaEvent_t done = nullptr;
    bool used = false;
  };

  explicit Device(DeviceProperties properties) : properties_(std::move(properties)) {}
  absl::Status Prepare();
  void KeepLocked(cudaError_t error, absl::string_view op);
  void ForgetFault();

  const DeviceProperties properties_;
  cudaStream_t stream_ = nullptr;
  bool dependent_launches_ = false;
  std::mutex mutex_;
  Staging stagings_[kStagings];  // guarded
  int next_staging_ = 0;         // guarded
  void* results_ = nullptr;      // pinned, kResultBytes
  std::string fault_;            // guarded
};

}  // namespace nibble::cuda

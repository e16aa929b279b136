// A device that runs the ops: the CPU backend, or a CUDA device. The engine and the model know only this header.
//
// Threads: one thread (the engine's) calls ops, RunStep and Synchronize. Allocate and Pack are called by the loading
// thread, before the first step. Nothing inside RunStep's body allocates or synchronises.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/ops.h"
#include "kernels/quant/matrix.h"

namespace nibble {

// Device memory, owned. 64-byte aligned, zero-filled, freed with the object (before its backend).
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(void* data, int64_t size_bytes, std::function<void(void*)> release)
      : data_(data), size_bytes_(size_bytes), release_(std::move(release)) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) release_(data_);
  }
  void* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  void* data_ = nullptr;
  int64_t size_bytes_ = 0;
  std::function<void(void*)> release_;
};

struct DeviceInfo {
  std::string name;           // "cpu"
  std::string isa;            // "avx512_vnni"
  std::string why;            // one line: what was found, what was chosen and why
  int32_t num_threads = 0;
  int64_t memory_bytes = 0;       // total
  int64_t memory_free_bytes = 0;  // when asked
};

// What a captured step may be keyed by: steps with the same key run the same ops on the same buffers.
struct StepKey {
  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual DeviceInfo Info() const = 0;
  virtual DType activation_dtype() const = 0;

  // RESOURCE_EXHAUSTED names `what`, the bytes asked for and the bytes free.
  virtual absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what) = 0;
  virtual void CopyToDevice(void* device, const void* host, int64_t size_bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, int64_t size_bytes) = 0;

  // INVALID_ARGUMENT for a matrix that Validate refuses; UNIMPLEMENTED names a format without a kernel.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const quant::Matrix& matrix) = 0;

  // Runs `step` now, or replays what it recorded for the same key. Exactly the ops below may be called inside.
  virtual void RunStep(StepKey key, absl::FunctionRef<void()> step) = 0;
  // Waits for everything issued; the first latched fault since the last call, as INTERNAL naming the op.
  virtual absl::Status Synchronize() = 0;

  virtual void Embed(const EmbedParams& params) = 0;
  virtual void RmsNorm(const RmsNormParams& params) = 0;
  virtual void Linear(const LinearParams& params) = 0;
  virtual void RopeStoreKv(const RopeStoreKvParams& params) = 0;
  virtual void Attention(const AttentionParams& params) = 0;
  virtual void GatedActivation(const GatedActivationParams& params) = 0;
  virtual void GatherRows(const GatherRowsParams& params) = 0;
  virtual void Sample(const SampleParams& params) = 0;
};

// What the CPU kernels are compiled for; kernels/cpu/isa.h says which instructions each name stands
// for. In ascending order of preference on each architecture.
enum class CpuIsa : uint8_t {
  kAuto,  // the best of the machine
  kScalar,
  kAvx2,
  kAvx512,
  kAvxVnni,
  kAvx512Vnni,
  kAvx512VnniBf16,
  kNeonDotprod,
};
enum class CpuActivations : uint8_t {
  kInt8,  // rows quantized to int8 in groups of 32 before a linear: fast
  kF32,   // the exact path: f32 activations times dequantized weights
};

struct CpuOptions {
  int32_t num_threads = 0;  // 0: one a core this process may run on
  CpuIsa isa = CpuIsa::kAuto;
  CpuActivations activations = CpuActivations::kInt8;
};

// FAILED_PRECONDITION when `isa` names one this machine lacks; INVALID_ARGUMENT for num_threads outside 0..256.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuOptions& options);

}  // namespace nibble

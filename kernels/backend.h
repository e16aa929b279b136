// A device that runs the ops: the CPU backend, or a CUDA device. The engine and the model know only this header.
//
// Threads: one thread (the engine's) calls ops, RunStep and Synchronize. Allocate, Pack and the other functions of
// loading are called by the loading thread, before the first step. Nothing inside RunStep's body allocates or
// synchronises.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
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
  int32_t num_numa_nodes = 1;     // over which threads and memory are placed
  int64_t memory_bytes = 0;       // total
  int64_t memory_free_bytes = 0;  // when asked
};

// A matrix that Pack is going to be asked for, as far as it is known before it is read.
struct PlannedMatrix {
  quant::Format format = quant::Format::kF32;
  int32_t rows = 0, cols = 0;
  int32_t group = 0;         // columns of a scale; 0: all
  bool offsets = false;
  bool zero_point = false;   // the offsets are one multiple of the scales
  bool f32_scales = false;   // some may not be exact in f16
  bool half_values = false;  // kF32: all are exact in f16, or all in bf16
};

// Bytes that a model is going to take on a device.
struct MemoryPlan {
  absl::Span<const PlannedMatrix> matrices;  // of the weights, as many bytes as the device makes of them
  int64_t weights = 0;                       // all others
  int64_t kv_cache = 0;
  int64_t activations = 0;  // of the largest step, with its inputs
};

// What a captured step may be keyed by: steps with the same key run the same ops on the same buffers. That holds for
// the host's memory as well: a copy's source, Sample's rows and out lie where they lay the first time, and are read
// and written each time the step runs.
struct StepKey {
  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
  int32_t num_logits_rows = 0;  // that the step scores or draws; 0 where it does neither
  auto operator<=>(const StepKey&) const = default;
};

// How a device lays out packed matrices, for files that keep them (engine/weights/packed_file.h): bytes written under
// another name or version mean nothing to this one.
struct PackedLayout {
  std::string name;  // "cpu": a word, it becomes part of a file's name
  uint32_t version = 0;
};

// A packed matrix as bytes: what FromBytes makes the same matrix of, in another process.
struct PackedBytes {
  std::string header;                               // opaque outside the backend; at most 256 bytes
  std::vector<absl::Span<const uint8_t>> sections;  // at most 8, each 64-byte aligned
  std::shared_ptr<const void> owner = nullptr;      // of the sections' memory; null: the matrix
};

// Packs a matrix from pieces of its rows, so that no more of its canonical form than a few pieces is ever in memory.
// The result is the one Pack gives for the whole, whatever the pieces are, their order, and the threads.
class MatrixPacker {
 public:
  static constexpr int32_t kRowMultiple = 128;  // of a piece's first row, and of its rows unless it is the last

  virtual ~MatrixPacker() = default;
  // Rows first_row .. first_row + piece.rows - 1 of the matrix, all of the same columns, format and group. Any thread,
  // several at once. Errors as Pack.
  virtual absl::Status Add(int32_t first_row, const quant::Matrix& piece) = 0;
  // After all rows, on one thread. Null when a piece's values needed a wider layout than those before it (f32 scales
  // among f16 ones): then all rows must be added again, and the second time is the last.
  virtual std::unique_ptr<PackedMatrix> Finish() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual DeviceInfo Info() const = 0;
  virtual DType activation_dtype() const = 0;

  // What is about to be allocated, before any of it is: RESOURCE_EXHAUSTED with the sums when the device cannot hold
  // it. OK where memory is taken when it is written (the CPU).
  virtual absl::Status CheckPlan(const MemoryPlan& plan) = 0;
  // At load, of the attention that steps will ask for (`cache` without pointers): UNIMPLEMENTED names what the device
  // has no kernel for.
  virtual absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads, int32_t max_context) = 0;

  // RESOURCE_EXHAUSTED names `what`, the bytes asked for and the bytes free.
  virtual absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what) = 0;
  virtual void CopyToDevice(void* device, const void* host, int64_t size_bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, int64_t size_bytes) = 0;

  // INVALID_ARGUMENT for a matrix that Validate refuses; UNIMPLEMENTED names a format without a kernel.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const quant::Matrix& matrix) = 0;
  // The same in pieces, for a matrix of `rows` rows.
  virtual std::unique_ptr<MatrixPacker> StartPacking(int32_t rows) = 0;

  virtual PackedLayout packed_layout() const = 0;
  // Views that live as long as `matrix`, which this backend packed, and the result's owner. Costs nothing where weights
  // are in RAM, a copy of the matrix where they are not.
  virtual PackedBytes ToBytes(const PackedMatrix& matrix) = 0;
  // The matrix that `bytes` were of, under this layout: a copy of the sections without an `owner`, where weights are
  // best read from; with one, views that keep it, where the device can read them in place. Any thread. Trusts no byte of the header: DATA_LOSS names what it claims that no matrix has. Codes and scales are
  // not looked at: any bytes are safe there, though not meaningful. INVALID_ARGUMENT for a misaligned section.
  virtual absl::StatusOr<std::unique_ptr<PackedMatrix>> FromBytes(const PackedBytes& bytes,
                                                                  const std::shared_ptr<const void>& owner) = 0;

  // Calls fn(part) for every part in 0 .. num_parts - 1 on the device's host threads, this one among them (there are
  // Info().num_threads on the cpu backend), in no order; returns when all are done. Not within a step.
  virtual void RunParts(int num_parts, absl::FunctionRef<void(int part)> fn) = 0;

  // Runs `step` now, or replays what it recorded for the same key. Exactly the ops below, CountLayer and CopyToDevice may
  // be called inside; its copies come before its ops, which may run when `step` has returned only, several at once where
  // they are about different rows. What Sample writes to the host is there after Synchronize.
  virtual void RunStep(StepKey key, absl::FunctionRef<void()> step) = 0;
  // Waits for everything issued; the first latched fault since the last call, as INTERNAL naming the op.
  virtual absl::Status Synchronize() = 0;
  // ++counter when the ops called before are done, so that another thread sees that a long step goes on: within a step
  // whose ops run together, evenly over it. A step that is replayed counts when it is recorded only; a device that
  // does so is done with any step in less than a second.
  virtual void CountLayer(std::atomic<int64_t>& counter) = 0;

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
  // Rows quantized to int8 in groups of 32 before a linear: fast. Attention may multiply in bf16 (cpu/isa.h).
  kInt8,
  kInt16,  // and what that leaves over in int8 again: 16 bits, for twice the dot products
  kF32,    // the exact path: f32 activations times dequantized weights
};

enum class CpuNuma : uint8_t {
  kAuto,  // with more than one NUMA node: threads kept on nodes, weights and cache spread over them
  kOff,   // threads run where the system lets them, pages lie where they are first touched
};

struct CpuOptions {
  int32_t num_threads = 0;  // 0: one a core this process may use (cpu_count.h)
  CpuIsa isa = CpuIsa::kAuto;
  CpuActivations activations = CpuActivations::kInt8;
  CpuNuma numa = CpuNuma::kAuto;
};

// FAILED_PRECONDITION when `isa` names one this machine lacks; INVALID_ARGUMENT for num_threads outside 0..256.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuOptions& options);

struct CudaOptions {
  int32_t ordinal = 0;  // cuda:0
  DType activations = DType::kF16;  // or kBf16: of everything between ops but the logits
  // What ops need while they run; of a 8B model a pass of 256 rows through weights in tiles takes 86 MiB, most of it parts
  // of sums, one of 64 rows through others 60 MiB, most of it a slab of a weight that is dequantized.
  int64_t workspace_bytes = int64_t{128} << 20;
  // W8A8: linears with int8 weights by row, and with fp8 ones where the device multiplies fp8, quantize their rows of x
  // too, to int8 or e4m3 with a scale a row (a block). Else such weights are dequantized in registers.
  bool quantize_activations = false;
  bool graphs = true;  // steps of decode rows only are captured and launched as a whole
  // Kernels of 4-bit weights start before the kernels before them end, to fetch their first weights (programmatic
  // dependent launch, compute capability 9.0; nothing on others). Off: an H200 was no faster with it.
  bool dependent_launches = false;
  // Linears of more than 64 rows dequantize their weights to 16 bits, a slab at a time, and multiply as many rows at
  // once as the workspace holds. Gives up what ops.h says of batches: a row's last bits then depend on how many rows
  // are beside it.
  bool wide_rows = false;
};

// OK when CreateCudaBackend would find a device to use. FAILED_PRECONDITION says why not: this program was built
// without CUDA, no driver, one too old, no such device, one that is too old, no cuBLASLt.
absl::Status CheckCuda(int32_t ordinal);

// Errors of CheckCuda; INVALID_ARGUMENT for other activations; RESOURCE_EXHAUSTED when the workspace does not fit.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options);

}  // namespace nibble

// The CUDA backend: memory and its plan, packing, graphs of steps, and each op handed to its
// kernels. Never run on a GPU yet.
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/matrix_packer.h"
#include "kernels/cuda/pack_matrix.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/workspace.h"

namespace nibble {
namespace {

using cuda::CudaMatrix;
using cuda::StoredMatrix;

constexpr uint32_t kLayoutVersion = 1;
constexpr int32_t kMaxHostThreads = 16;  // that pack while a model loads
// Graphs of decode steps, one for each number of sequences; beyond these, steps are launched op by
// op. What a graph takes on a device is not documented: this is reserved for each in the plan.
constexpr size_t kMaxGraphs = 64;
constexpr int64_t kGraphBytes = 1 << 20;

const StoredMatrix& StoredOf(const PackedMatrix& matrix) {
  return static_cast<const CudaMatrix&>(matrix).stored();
}

class OwnedMatrix : public CudaMatrix {
 public:
  OwnedMatrix(const StoredMatrix& stored, DeviceBuffer memory)
      : CudaMatrix(stored), memory_(std::move(memory)) {
    stored_.bytes = static_cast<const uint8_t*>(memory_.data());
  }
  // Its bytes on the host, kept for as long as the matrix: for files.
  absl::Span<const uint8_t> HostBytes(cuda::Device& device) const {
    constexpr size_t kAlignment = 64;
    const auto size = static_cast<size_t>(size_bytes());
    host_.resize(size + kAlignment);
    const size_t skip = -reinterpret_cast<uintptr_t>(host_.data()) % kAlignment;
    device.Download(host_.data() + skip, stored_.bytes, size_bytes());
    return absl::MakeConstSpan(host_).subspan(skip, size);
  }

 private:
  DeviceBuffer memory_;
  mutable std::vector<uint8_t> host_;
};

// What is allocated, by what it is for.
class MemoryLedger {
 public:
  void Add(const std::string& what, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    bytes_[what] += bytes;
  }
  std::string Sums() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> parts;
    for (const auto& [what, bytes] : bytes_) {
      if (bytes > 0) parts.push_back(absl::StrCat(what, " ", bytes));
    }
    return parts.empty() ? "nothing" : absl::StrJoin(parts, ", ");
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, int64_t> bytes_;  // guarded
};

class CudaBackend : public Backend {
 public:
  CudaBackend(std::unique_ptr<cuda::Device> device, std::unique_ptr<cuda::Gemm> gemm,
              const CudaOptions& options)
      : options_(options), device_(std::move(device)), gemm_(std::move(gemm)) {}

  absl::Status Prepare() {
    absl::StatusOr<DeviceBuffer> memory = Allocate(options_.workspace_bytes, "workspace");
    if (!memory.ok()) return memory.status();
    workspace_memory_ = *std::move(memory);
    workspace_ = cuda::Workspace(workspace_memory_.data(), options_.workspace_bytes);
    return absl::OkStatus();
  }

  // --- memory

  DeviceInfo Info() const override {
    const cuda::DeviceProperties& found = device_->properties();
    DeviceInfo info;
    info.name = device_->name();
    info.isa = absl::StrCat("sm_", found.major, found.minor);
    info.why = absl::StrCat(found.name, ", compute capability ", found.major, ".", found.minor,
                            ", ", found.multiprocessors, " multiprocessors, ", gemm_->name(), ", ",
                            options_.activations == DType::kBf16 ? "bf16" : "f16",
                            " activations; never run on a GPU yet");
    info.num_threads = static_cast<int32_t>(
        std::clamp<unsigned>(std::thread::hardware_concurrency(), 1, kMaxHostThreads));
    info.memory_bytes = found.memory_bytes;
    info.memory_free_bytes = device_->free_bytes();
    return info;
  }
  DType activation_dtype() const override { return options_.activations; }

  absl::Status CheckPlan(const MemoryPlan& plan) override {
    const int64_t graphs = options_.graphs ? static_cast<int64_t>(kMaxGraphs) * kGraphBytes : 0;
    const int64_t needed = plan.weights + plan.kv_cache + plan.activations + graphs;
    const int64_t free_bytes = device_->free_bytes();
    if (needed <= free_bytes) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "memory of ", device_->name(), " (", device_->properties().name, "): weights ",
        plan.weights, " + KV cache ", plan.kv_cache, " + activations ", plan.activations,
        " + graphs ", graphs, " = ", needed, " bytes needed, ", free_bytes, " free of ",
        device_->properties().memory_bytes, " (held: ", ledger_.Sums(),
        "); give the cache less (--kv-cache-mib) or take a smaller model"));
  }

  absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what) override {
    void* const memory = device_->Allocate(size_bytes);
    if (memory == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("memory of ", device_->name(), " for ", what, ": ", size_bytes,
                       " bytes needed, ", device_->free_bytes(), " free of ",
                       device_->properties().memory_bytes, " (held: ", ledger_.Sums(), ")"));
    }
    std::string key(what);
    ledger_.Add(key, size_bytes);
    return DeviceBuffer(memory, size_bytes, [this, key = std::move(key), size_bytes](void* p) {
      device_->Free(p);
      ledger_.Add(key, -size_bytes);
    });
  }
  void CopyToDevice(void* device, const void* host, int64_t size_bytes) override {
    device_->Upload(device, host, size_bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t size_bytes) override {
    device_->Download(host, device, size_bytes);
  }

  // --- weights

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const quant::Matrix& matrix) override {
    absl::StatusOr<cuda::HostMatrix> packed = cuda::PackMatrix(matrix);
    if (!packed.ok()) return packed.status();
    return Place(packed->stored, packed->bytes);
  }
  std::unique_ptr<MatrixPacker> StartPacking(int32_t rows) override {
    return std::make_unique<cuda::CudaMatrixPacker>(
        rows, [this](const quant::Matrix& matrix) { return Pack(matrix); });
  }
  PackedLayout packed_layout() const override {
    return {.name = "cuda", .version = kLayoutVersion};
  }
  PackedBytes ToBytes(const PackedMatrix& matrix) override {
    const auto& owned = static_cast<const OwnedMatrix&>(matrix);
    return {cuda::HeaderOf(owned.stored()), {owned.HostBytes(*device_)}};
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> FromBytes(
      const PackedBytes& bytes, const std::shared_ptr<const void>&) override {
    absl::StatusOr<StoredMatrix> stored = cuda::StoredOf(bytes.header);
    if (!stored.ok()) return stored.status();
    const int64_t needed = cuda::StoredBytes(*stored);
    if (bytes.sections.size() != 1 || static_cast<int64_t>(bytes.sections[0].size()) != needed) {
      return absl::DataLossError(absl::StrCat("packed matrix: ", bytes.sections.size(),
                                              " sections, needed one of ", needed, " bytes"));
    }
    return Place(*stored, bytes.sections[0]);
  }

  void RunParts(int num_parts, absl::FunctionRef<void(int part)> fn) override {
    std::vector<std::thread> threads;
    for (int part = 1; part < num_parts; ++part) threads.emplace_back([&fn, part] { fn(part); });
    if (num_parts > 0) fn(0);
    for (std::thread& thread : threads) thread.join();
  }

  // --- steps

  // The first step of a key runs op by op, so that its kernels are loaded; the second is captured.
  void RunStep(StepKey key, absl::FunctionRef<void()> step) override {
    device_->MakeCurrent();
    if (!options_.graphs || key.num_tokens != key.num_sequences) return step();
    auto known = graphs_.find(key.num_sequences);
    if (known == graphs_.end()) {
      if (graphs_.size() < kMaxGraphs) graphs_[key.num_sequences] = nullptr;
      return step();
    }
    if (known->second == nullptr) known->second = device_->Capture(step);
    if (known->second != nullptr) device_->Launch(*known->second);
  }
  absl::Status Synchronize() override { return device_->Synchronize(); }

  // --- ops

  absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads,
                              int32_t max_context) override {
    return cuda::CheckAttention(cache, num_heads, max_context, options_.activations,
                                options_.workspace_bytes);
  }

  void Embed(const EmbedParams& params) override {
    cuda::DequantizeCall call;
    call.matrix = StoredOf(*params.table);
    call.ids = params.ids;
    call.rows = params.out.rows;
    call.dtype = params.out.dtype;
    call.out = params.out.data;
    call.out_stride = params.out.stride;
    device_->Keep(cuda::LaunchDequantize(call, device_->stream()), "embed");
  }

  void RmsNorm(const RmsNormParams& params) override {
    cuda::RmsNormCall call;
    call.dtype = params.x.dtype;
    call.rows = params.x.rows;
    call.cols = params.x.cols;
    call.x = params.x.data;
    call.x_stride = params.x.stride;
    call.residual = params.residual.data;
    call.residual_stride = params.residual.stride;
    call.weight = params.weight;
    call.epsilon = params.epsilon;
    call.out = params.out.data;
    call.out_stride = params.out.stride;
    device_->Keep(cuda::LaunchRmsNorm(call, device_->stream()), "rms_norm");
  }

  void Linear(const LinearParams& params) override {
    cuda::RunLinear(*device_, *gemm_, workspace_, params);
  }

  void RopeStoreKv(const RopeStoreKvParams& params) override {
    cuda::RopeStoreCall call;
    call.dtype = params.qkv.dtype;
    call.qkv = params.qkv.data;
    call.qkv_stride = params.qkv.stride;
    call.tokens = params.qkv.rows;
    call.num_heads = params.num_heads;
    call.num_kv_heads = params.cache.num_kv_heads;
    call.head_dim = params.cache.head_dim;
    call.rotary_dim = params.rotary_dim;
    call.half_layout = params.layout == RopeLayout::kHalf;
    call.cos_sin = params.cos_sin;
    call.positions = params.positions;
    call.slots = params.slots;
    call.cache_dtype = params.cache.dtype;
    call.k = params.cache.k;
    call.v = params.cache.v;
    call.block_size = params.cache.block_size;
    device_->Keep(cuda::LaunchRopeStore(call, device_->stream()), "rope_store_kv");
  }

  void Attention(const AttentionParams& params) override {
    cuda::RunAttention(*device_, workspace_, params);
  }

  void GatedActivation(const GatedActivationParams& params) override {
    cuda::GatedCall call;
    call.dtype = params.out.dtype;
    call.rows = params.out.rows;
    call.cols = params.out.cols;
    call.gate_up = params.gate_up.data;
    call.gate_up_stride = params.gate_up.stride;
    call.out = params.out.data;
    call.out_stride = params.out.stride;
    device_->Keep(cuda::LaunchGated(call, device_->stream()), "gated_activation");
  }

  void GatherRows(const GatherRowsParams& params) override {
    cuda::GatherCall call;
    call.x = params.x.data;
    call.x_stride = params.x.stride;
    call.ids = params.rows;
    call.rows = params.out.rows;
    call.cols = params.out.cols;
    call.out = params.out.data;
    call.out_stride = params.out.stride;
    device_->Keep(cuda::LaunchGather(call, device_->stream()), "gather_rows");
  }

  void Sample(const SampleParams& params) override { sampler_.Run(*device_, workspace_, params); }

 private:
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Place(const StoredMatrix& stored,
                                                      absl::Span<const uint8_t> bytes) {
    if (const absl::Status fits = cuda::CheckLinear(stored, options_.workspace_bytes); !fits.ok()) {
      return fits;
    }
    absl::StatusOr<DeviceBuffer> memory = Allocate(static_cast<int64_t>(bytes.size()), "weights");
    if (!memory.ok()) return memory.status();
    device_->Upload(memory->data(), bytes.data(), static_cast<int64_t>(bytes.size()));
    return std::make_unique<OwnedMatrix>(stored, *std::move(memory));
  }

  const CudaOptions options_;
  std::unique_ptr<cuda::Device> device_;
  std::unique_ptr<cuda::Gemm> gemm_;
  MemoryLedger ledger_;
  DeviceBuffer workspace_memory_;
  cuda::Workspace workspace_;
  cuda::Sampler sampler_;
  // By the number of sequences; null: met once, not captured yet.
  std::map<int32_t, std::unique_ptr<cuda::Graph>> graphs_;
};

}  // namespace

absl::Status CheckCuda(int32_t ordinal) {
  if (const auto device = cuda::FindDevice(ordinal); !device.ok()) return device.status();
  return cuda::MakeGemm().status();
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options) {
  if (options.activations != DType::kBf16 && options.activations != DType::kF16) {
    return absl::InvalidArgumentError("activations of the CUDA backend are f16 or bf16");
  }
  absl::StatusOr<std::unique_ptr<cuda::Device>> device = cuda::Device::Open(options.ordinal);
  if (!device.ok()) return device.status();
  absl::StatusOr<std::unique_ptr<cuda::Gemm>> gemm = cuda::MakeGemm();
  if (!gemm.ok()) return gemm.status();
  auto backend = std::make_unique<CudaBackend>(*std::move(device), *std::move(gemm), options);
  if (const absl::Status status = backend->Prepare(); !status.ok()) return status;
  return backend;
}

}  // namespace nibble

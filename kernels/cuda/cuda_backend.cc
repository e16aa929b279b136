// The CUDA backend: each function of the interface handed to what does it, each op to its kernels.
// Has run on sm_90 alone, an H200.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/matrix_packer.h"
#include "kernels/cuda/one_launch_ops.h"
#include "kernels/cuda/owned_matrix.h"
#include "kernels/cuda/pack_matrix.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/workspace.h"

namespace nibble {
namespace {

using cuda::StoredMatrix;

constexpr uint32_t kLayoutVersion = 2;
constexpr int32_t kMaxHostThreads = 16;  // that pack while a model loads
constexpr char kWideRows[] =
    ", more than 64 rows through the GEMM at once (an answer's last bits may depend on its batch)";
static_assert(cuda::kPassRows == 64);

class CudaBackend : public Backend {
 public:
  CudaBackend(std::unique_ptr<cuda::Device> device, std::unique_ptr<cuda::Gemm> gemm,
              const CudaOptions& options)
      : options_(options), device_(std::move(device)), gemm_(std::move(gemm)), memory_(*device_) {
    if (!options_.quantize_activations) return;
    multiplies_ = [this](const cuda::CodesShape& shape) {
      device_->MakeCurrent();  // of a thread that packs
      return gemm_->Multiplies(shape);
    };
  }

  absl::Status Prepare() {
    device_->AllowDependentLaunches(options_.dependent_launches);
    absl::StatusOr<DeviceBuffer> memory = Allocate(options_.workspace_bytes, "workspace");
    if (!memory.ok()) return memory.status();
    workspace_memory_ = *std::move(memory);
    workspace_ = cuda::Workspace(workspace_memory_.data(), options_.workspace_bytes);
    if (!options_.graphs) return absl::OkStatus();
    memory = Allocate(cuda::StepGraphs::kMemoryBytes, "steps");
    if (!memory.ok()) return memory.status();
    step_memory_ = *std::move(memory);
    graphs_ = std::make_unique<cuda::StepGraphs>(*device_, workspace_, step_memory_.data());
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
                            options_.activations == DType::kBf16 ? "bf16" : "f16", " activations",
                            QuantizedFor(found),
                            device_->dependent_launches() ? ", dependent launches" : "",
                            options_.wide_rows ? kWideRows : "");
    info.num_threads = static_cast<int32_t>(
        std::clamp<unsigned>(std::thread::hardware_concurrency(), 1, kMaxHostThreads));
    info.memory_bytes = found.memory_bytes;
    info.memory_free_bytes = device_->free_bytes();
    return info;
  }
  DType activation_dtype() const override { return options_.activations; }

  absl::Status CheckPlan(const MemoryPlan& plan) override {
    using cuda::StepGraphs;
    constexpr int64_t kGraphs = static_cast<int64_t>(StepGraphs::kMaxGraphs);
    return memory_.CheckPlan(plan, options_.graphs ? kGraphs * StepGraphs::kGraphBytes : 0);
  }
  absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what) override {
    return memory_.Allocate(size_bytes, what);
  }
  void CopyToDevice(void* device, const void* host, int64_t size_bytes) override {
    if (graphs_ != nullptr && graphs_->Copy(device, host, size_bytes)) return;
    device_->Upload(device, host, size_bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t size_bytes) override {
    device_->Download(host, device, size_bytes);
  }

  // --- weights

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const quant::Matrix& matrix) override {
    absl::StatusOr<cuda::HostMatrix> packed = cuda::PackMatrix(matrix, multiplies_);
    if (!packed.ok()) return packed.status();
    return Place(packed->stored, packed->bytes);
  }
  std::unique_ptr<MatrixPacker> StartPacking(int32_t rows) override {
    return std::make_unique<cuda::CudaMatrixPacker>(
        rows, [this](const quant::Matrix& matrix) { return Pack(matrix); });
  }
  PackedLayout packed_layout() const override {
    return {.name = options_.quantize_activations ? "cuda-w8a8" : "cuda",
            .version = kLayoutVersion};
  }
  PackedBytes ToBytes(const PackedMatrix& matrix) override {
    return static_cast<const cuda::OwnedMatrix&>(matrix).ToBytes(*device_);
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
    if (!CanMultiply(*stored)) {
      return absl::FailedPreconditionError(
          absl::StrCat("packed matrix: 8-bit codes of ", stored->rows, " x ", stored->cols,
                       " for 8-bit activations, which ", device_->properties().name, " and ",
                       gemm_->name(), " do not multiply"));
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

  void RunStep(StepKey key, absl::FunctionRef<void()> step) override {
    device_->MakeCurrent();
    if (graphs_ == nullptr || key.num_tokens != key.num_sequences) return step();
    graphs_->Run(key, step);
  }
  absl::Status Synchronize() override {
    if (graphs_ == nullptr) return device_->Synchronize();
    device_->Wait();
    graphs_->Deliver();
    return device_->Synchronize();
  }
  void CountLayer(std::atomic<int64_t>& counter) override {
    counter.fetch_add(1, std::memory_order_relaxed);
  }

  // --- ops

  absl::Status CheckAttention(const KvLayer& cache, int32_t num_heads,
                              int32_t max_context) override {
    return cuda::CheckAttention(cache, num_heads, max_context, options_.activations,
                                options_.workspace_bytes);
  }

  void Embed(const EmbedParams& params) override { cuda::RunEmbed(*device_, params); }
  void RmsNorm(const RmsNormParams& params) override { cuda::RunRmsNorm(*device_, params); }
  void Linear(const LinearParams& params) override {
    cuda::RunLinear(*device_, *gemm_, workspace_, params, options_.wide_rows);
  }
  void RopeStoreKv(const RopeStoreKvParams& params) override {
    cuda::RunRopeStoreKv(*device_, params);
  }
  void Attention(const AttentionParams& params) override {
    cuda::RunAttention(*device_, workspace_, params);
  }
  void GatedActivation(const GatedActivationParams& params) override {
    cuda::RunGatedActivation(*device_, params);
  }
  void GatherRows(const GatherRowsParams& params) override {
    cuda::RunGatherRows(*device_, params);
  }
  void Sample(const SampleParams& params) override {
    if (graphs_ != nullptr && graphs_->Sample(params)) return;
    sampler_.Run(*device_, workspace_, params);
  }

 private:
  // Which weights are multiplied with activations in 8 bits.
  std::string QuantizedFor(const cuda::DeviceProperties& found) const {
    using Kind = cuda::CodesShape::Kind;
    if (!options_.quantize_activations) return "";
    const auto has = [&](Kind kind) { return HasUnitsFor(kind, found.major, found.minor); };
    return absl::StrCat(", where cuBLASLt has an algorithm int8 ones for int8 weights by row",
                        has(Kind::kE4m3) ? ", fp8 ones for fp8 weights by tensor and row" : "",
                        has(Kind::kE4m3Blocks) ? " and block" : "",
                        has(Kind::kE4m3) ? "" : " (fp8 weights are dequantized: no FP8 units)");
  }

  // Packed bytes may come from another device, or another cuBLASLt.
  bool CanMultiply(const StoredMatrix& stored) const {
    if (stored.storage != cuda::Storage::kCodes) return true;
    return multiplies_ &&
           multiplies_({.kind = stored.kind, .cols = stored.cols, .out = stored.rows});
  }

  absl::StatusOr<std::unique_ptr<PackedMatrix>> Place(const StoredMatrix& stored,
                                                      absl::Span<const uint8_t> bytes) {
    if (const absl::Status fits = cuda::CheckLinear(stored, options_.workspace_bytes); !fits.ok()) {
      return fits;
    }
    absl::StatusOr<DeviceBuffer> memory = Allocate(static_cast<int64_t>(bytes.size()), "weights");
    if (!memory.ok()) return memory.status();
    device_->Upload(memory->data(), bytes.data(), static_cast<int64_t>(bytes.size()));
    return std::make_unique<cuda::OwnedMatrix>(stored, *std::move(memory));
  }

  const CudaOptions options_;
  std::unique_ptr<cuda::Device> device_;
  std::unique_ptr<cuda::Gemm> gemm_;
  cuda::Multiplies multiplies_;  // empty: activations stay as they are
  cuda::DeviceMemory memory_;
  DeviceBuffer workspace_memory_, step_memory_;
  cuda::Workspace workspace_;
  cuda::Sampler sampler_;
  std::unique_ptr<cuda::StepGraphs> graphs_;  // null without graphs
};

}  // namespace

absl::Status CheckCuda(int32_t ordinal) {
  const auto device = cuda::FindDevice(ordinal);
  if (!device.ok()) return device.status();
  if (const cudaError_t error = cudaSetDevice(ordinal); error != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("cuda:", ordinal, " does not start: ", cudaGetErrorString(error)));
  }
  return cuda::MakeGemm(device->major, device->minor).status();
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options) {
  if (options.activations != DType::kBf16 && options.activations != DType::kF16) {
    return absl::InvalidArgumentError("activations of the CUDA backend are f16 or bf16");
  }
  absl::StatusOr<std::unique_ptr<cuda::Device>> device = cuda::Device::Open(options.ordinal);
  if (!device.ok()) return device.status();
  const cuda::DeviceProperties& found = (*device)->properties();
  absl::StatusOr<std::unique_ptr<cuda::Gemm>> gemm = cuda::MakeGemm(found.major, found.minor);
  if (!gemm.ok()) return gemm.status();
  auto backend = std::make_unique<CudaBackend>(*std::move(device), *std::move(gemm), options);
  if (const absl::Status status = backend->Prepare(); !status.ok()) return status;
  return backend;
}

}  // namespace nibble

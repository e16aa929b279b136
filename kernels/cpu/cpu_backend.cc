// The CPU backend: memory, packed weights, and steps, whose ops run on the pool (cpu_ops.h), op by
// op or in lanes (step_lanes.h).

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "kernels/cpu/cpu_count.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/matrix_packer.h"
#include "kernels/cpu/memory_limit.h"
#include "kernels/cpu/numa.h"
#include "kernels/cpu/packed_bytes.h"
#include "kernels/cpu/planned_bytes.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/step_lanes.h"
#include "kernels/cpu/step_ops.h"
#include "kernels/cpu/thread_pool.h"

namespace nibble {
namespace {

constexpr int32_t kMaxThreads = 256;
// From here on a buffer is worth huge pages, and one page more or less of memory does not matter.
constexpr int64_t kHugeBufferBytes = int64_t{64} << 20;

const cpu::RowKernels& KernelsFor(CpuIsa isa, DType attention_products) {
  if (attention_products == DType::kBf16) return cpu::kAvx512Bf16RowKernels;
  switch (isa) {
    case CpuIsa::kAvx512VnniBf16:
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAvx512:
      return cpu::kAvx512RowKernels;
    case CpuIsa::kAvxVnni:
    case CpuIsa::kAvx2:
      return cpu::kAvx2RowKernels;
    case CpuIsa::kNeonDotprod:
      return cpu::kNeonRowKernels;
    case CpuIsa::kScalar:
    case CpuIsa::kAuto:
      break;
  }
  return cpu::kScalarRowKernels;
}

class CpuBackend : public Backend {
 public:
  CpuBackend(IsaChoice isa, CpuActivations activations, int32_t num_threads,
             cpu::NumaPlacement placement)
      : isa_(std::move(isa)),
        activations_(activations),
        attention_choice_(ChooseAttention(isa_.isa, activations_)),
        kernels_(KernelsFor(isa_.isa, attention_choice_.products)),
        placement_(std::move(placement)),
        weight_memory_(placement_),
        pool_(num_threads, placement_),
        ops_(pool_, isa_.isa, activations_, kernels_),
        lanes_(pool_, ops_, isa_.isa, activations_, kernels_) {}

  DeviceInfo Info() const override {
    DeviceInfo info;
    info.name = "cpu";
    info.isa = std::string(IsaName(isa_.isa));
    info.why = absl::StrCat(isa_.why, "; attention: ", attention_choice_.why);
    info.num_threads = pool_.size();
    info.num_numa_nodes = placement_.num_nodes();
    const MemoryLimit memory = UsableMemory();
    info.memory_bytes = memory.total;
    info.memory_free_bytes = memory.free;
    return info;
  }
  DType activation_dtype() const override { return DType::kF32; }

  absl::Status CheckPlan(const MemoryPlan& plan) override {
    return cpu::CheckMemoryPlan(plan, activations_, UsableMemory().free);
  }
  absl::Status CheckAttention(const KvLayer&, int32_t, int32_t) override {
    return absl::OkStatus();
  }

  // Pages are taken from the system when first written, so a large cache costs what is used of it.
  absl::StatusOr<DeviceBuffer> Allocate(int64_t size_bytes, absl::string_view what) override {
    NIBBLE_CHECK(size_bytes >= 0);
    const size_t length = std::max<int64_t>(size_bytes, 1);
    const int64_t free_bytes = UsableMemory().free;
    void* data = MAP_FAILED;
    if (size_bytes <= free_bytes) {
      data = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(absl::StrCat("memory for ", what, ": ", size_bytes,
                                                       " bytes needed, ", free_bytes,
                                                       " free; ask for less or free some"));
    }
#if defined(MADV_HUGEPAGE)
    // As weight_memory.h; a large buffer is the KV cache or the activations of a step.
    if (size_bytes >= kHugeBufferBytes) madvise(data, length, MADV_HUGEPAGE);
#endif
    if (size_bytes >= kHugeBufferBytes) placement_.Interleave(data, size_bytes);
    return DeviceBuffer(data, size_bytes, [length](void* p) { munmap(p, length); });
  }
  void CopyToDevice(void* device, const void* host, int64_t size_bytes) override {
    std::memcpy(device, host, size_bytes);
  }
  void CopyToHost(void* host, const void* device, int64_t size_bytes) override {
    std::memcpy(host, device, size_bytes);
  }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(const quant::Matrix& matrix) override {
    return PackCpu(matrix, activations_, &weight_memory_);
  }
  std::unique_ptr<MatrixPacker> StartPacking(int32_t rows) override {
    return std::make_unique<cpu::CpuMatrixPacker>(rows, activations_, &weight_memory_);
  }
  PackedLayout packed_layout() const override {
    // Weights that meet int8 activations only are packed for them.
    const bool int8 = activations_ == CpuActivations::kInt8;
    return {.name = int8 ? "cpu" : "cpu-exact", .version = cpu::kPackedLayoutVersion};
  }
  PackedBytes ToBytes(const PackedMatrix& matrix) override { return cpu::BytesOf(matrix); }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> FromBytes(
      const PackedBytes& bytes, const std::shared_ptr<const void>& owner) override {
    auto matrix = cpu::MatrixOf(bytes, owner, &weight_memory_);
    if (matrix.ok() && activations_ != CpuActivations::kInt8 &&
        static_cast<const cpu::CpuMatrix&>(**matrix).shape().has_words()) {
      return absl::DataLossError("packed matrix: its scales are words, for int8 activations only");
    }
    return matrix;
  }
  void RunParts(int num_parts, absl::FunctionRef<void(int)> fn) override {
    pool_.Run(num_parts, fn);
  }

  // A step is noted down first: where lanes do not come into question, ops run as they are called.
  void RunStep(StepKey, absl::FunctionRef<void()> step) override {
    if (pool_.size() == 1 || placement_.num_nodes() > 1) return step();
    step_ops_.Clear();
    in_step_ = true;
    step();
    in_step_ = false;
    lanes_.Run(step_ops_.Take());
  }
  absl::Status Synchronize() override {
    std::string fault = ops_.TakeFault();
    if (fault.empty()) return absl::OkStatus();
    return absl::InternalError(std::move(fault));
  }
  void CountLayer(std::atomic<int64_t>& counter) override { Do(cpu::LayerCount{&counter}); }

  void Embed(const EmbedParams& params) override { Do(params); }
  void RmsNorm(const RmsNormParams& params) override { Do(params); }
  void Linear(const LinearParams& params) override { Do(params); }
  void RopeStoreKv(const RopeStoreKvParams& params) override { Do(params); }
  void Attention(const AttentionParams& params) override { Do(params); }
  void GatedActivation(const GatedActivationParams& params) override { Do(params); }
  void GatherRows(const GatherRowsParams& params) override { Do(params); }
  void Sample(const SampleParams& params) override { Do(params); }

 private:
  template <class Params>
  void Do(const Params& params) {
    if (in_step_) {
      step_ops_.Add(params);
    } else {
      ops_.Run(params);
    }
  }

  const IsaChoice isa_;
  const CpuActivations activations_;
  const AttentionChoice attention_choice_;
  const cpu::RowKernels& kernels_;
  const cpu::NumaPlacement placement_;
  cpu::WeightMemory weight_memory_;
  ThreadPool pool_;
  cpu::CpuOps ops_;
  cpu::StepLanes lanes_;
  cpu::StepOps step_ops_;
  bool in_step_ = false;  // ops are noted down in step_ops_
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuOptions& options) {
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat("threads is ", options.num_threads,
                                                   ", the range is 0 (one a hardware thread) to ",
                                                   kMaxThreads));
  }
  absl::StatusOr<IsaChoice> isa = ChooseIsa(options.isa);
  if (!isa.ok()) return isa.status();
  int32_t num_threads = options.num_threads;
  if (num_threads == 0) {
    num_threads = std::min<int32_t>(UsableCpus(), kMaxThreads);
  }
  std::vector<cpu::NumaNode> nodes;
  if (options.numa == CpuNuma::kAuto) nodes = cpu::UsableNodes();
  return std::make_unique<CpuBackend>(*std::move(isa), options.activations, num_threads,
                                      cpu::NumaPlacement(std::move(nodes), num_threads));
}

}  // namespace nibble

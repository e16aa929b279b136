// The CPU backend: memory, the latched fault, and each op handed to its kernel with the work split
// over the pool.

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
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/cpu_count.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/matrix_packer.h"
#include "kernels/cpu/memory_limit.h"
#include "kernels/cpu/numa.h"
#include "kernels/cpu/packed_bytes.h"
#include "kernels/cpu/planned_bytes.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/sample.h"
#include "kernels/cpu/thread_pool.h"

namespace nibble {
namespace {

constexpr int32_t kMaxThreads = 256;
// Elements below which a row op is not worth a barrier (about a microsecond on one core).
constexpr int64_t kSerialElements = 4096;
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
        attention_(pool_, kernels_),
        sample_scratch_(pool_.size()) {}

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
    return cpu::CheckMemoryPlan(plan, UsableMemory().free);
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
    return PackCpu(matrix, &weight_memory_);
  }
  std::unique_ptr<MatrixPacker> StartPacking(int32_t rows) override {
    return std::make_unique<cpu::CpuMatrixPacker>(rows, &weight_memory_);
  }
  PackedLayout packed_layout() const override {
    return {.name = "cpu", .version = cpu::kPackedLayoutVersion};
  }
  PackedBytes ToBytes(const PackedMatrix& matrix) override { return cpu::BytesOf(matrix); }
  absl::StatusOr<std::unique_ptr<PackedMatrix>> FromBytes(
      const PackedBytes& bytes, const std::shared_ptr<const void>& owner) override {
    return cpu::MatrixOf(bytes, owner, &weight_memory_);
  }
  void RunParts(int num_parts, absl::FunctionRef<void(int)> fn) override {
    pool_.Run(num_parts, fn);
  }

  void RunStep(StepKey, absl::FunctionRef<void()> step) override { step(); }
  absl::Status Synchronize() override {
    if (fault_.empty()) return absl::OkStatus();
    return absl::InternalError(std::exchange(fault_, {}));
  }

  void Embed(const EmbedParams& params) override { EmbedCpu(pool_, params); }
  void Linear(const LinearParams& params) override {
    LinearCpu(pool_, linear_scratch_, params, isa_.isa, activations_, &kernels_);
  }
  void Attention(const AttentionParams& params) override { attention_.Run(params); }

  void RmsNorm(const RmsNormParams& params) override {
    ForRows(params.x.rows, params.x.cols, [&](int32_t r) {
      float* residual = params.residual ? params.residual.f32_row(r) : nullptr;
      kernels_.rms_norm(params.x.f32_row(r), residual, params.weight, params.epsilon, params.x.cols,
                        params.out.f32_row(r));
    });
  }

  void GatedActivation(const GatedActivationParams& params) override {
    const int32_t cols = params.out.cols;
    ForRows(params.out.rows, cols, [&](int32_t r) {
      const float* gate = params.gate_up.f32_row(r);
      kernels_.gated(gate, gate + cols, 0, 1, cols, params.out.f32_row(r), 0);
    });
  }

  void GatherRows(const GatherRowsParams& params) override {
    for (int32_t r = 0; r < params.out.rows; ++r) {
      std::memcpy(params.out.f32_row(r), params.x.f32_row(params.rows[r]),
                  sizeof(float) * params.out.cols);
    }
  }

  void RopeStoreKv(const RopeStoreKvParams& params) override {
    const KvLayer& cache = params.cache;
    const int64_t head_bytes = KvHeadBytes(cache.dtype, cache.block_size, cache.head_dim);
    const auto rope_store = kernels_.ForCache(cache.dtype).rope_store;
    ForRows(params.qkv.rows, params.qkv.cols, [&](int32_t r) {
      const int32_t slot = params.slots[r];
      const int64_t block = slot / cache.block_size * (cache.num_kv_heads * head_bytes);
      cpu::RopeStoreRow row;
      row.qkv = params.qkv.f32_row(r);
      row.num_heads = params.num_heads;
      row.num_kv_heads = cache.num_kv_heads;
      row.head_dim = cache.head_dim;
      row.rotary_dim = params.rotary_dim;
      row.half_layout = params.layout == RopeLayout::kHalf;
      row.cos_sin = params.cos_sin + int64_t{params.positions[r]} * params.rotary_dim;
      row.k = static_cast<uint8_t*>(cache.k) + block;
      row.v = static_cast<uint8_t*>(cache.v) + block;
      row.head_bytes = head_bytes;
      row.block_size = cache.block_size;
      row.offset = slot % cache.block_size;
      rope_store(row);
    });
  }

  void Sample(const SampleParams& params) override {
    std::atomic<size_t> next{0};
    std::atomic<int32_t> broken{-1};
    const auto sample_rows = [&](int slot) {
      for (size_t i = next++; i < params.rows.size(); i = next++) {
        const SampleRow& row = params.rows[i];
        if (!cpu::SampleOneRow(kernels_, params.logits.f32_row(row.logits_row), params.logits.cols,
                               row, sample_scratch_[slot], &params.out[i])) {
          broken.store(row.logits_row, std::memory_order_relaxed);
        }
        if (params.drawn != nullptr) params.drawn[i] = params.out[i].id;
      }
    };
    if (params.rows.size() == 1) {
      sample_rows(0);
    } else {
      pool_.Run(pool_.size(), sample_rows);
    }
    if (broken >= 0 && fault_.empty()) {
      fault_ = absl::StrCat("op 'sample' on cpu: logits row ", broken.load(),
                            " has no finite maximum (NaN, infinity or every id forbidden)");
    }
  }

 private:
  // fn(r) for every row, `cols` elements of work each.
  void ForRows(int32_t rows, int64_t cols, absl::FunctionRef<void(int32_t)> fn) {
    if (rows * cols < kSerialElements || pool_.size() == 1) {
      for (int32_t r = 0; r < rows; ++r) fn(r);
      return;
    }
    const int32_t parts = std::min(rows, 2 * pool_.size());
    pool_.Run(parts, [&](int part) {
      const int32_t end = int64_t{rows} * (part + 1) / parts;
      for (int32_t r = int64_t{rows} * part / parts; r < end; ++r) fn(r);
    });
  }

  const IsaChoice isa_;
  const CpuActivations activations_;
  const AttentionChoice attention_choice_;
  const cpu::RowKernels& kernels_;
  const cpu::NumaPlacement placement_;
  cpu::WeightMemory weight_memory_;
  ThreadPool pool_;
  LinearScratch linear_scratch_;
  cpu::AttentionPlan attention_;
  std::vector<cpu::SampleScratch> sample_scratch_;  // one a pool thread
  std::string fault_;                               // the first since the last Synchronize
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

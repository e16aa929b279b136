#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble::cpu {
namespace {

// Elements below which a row op is not worth a barrier (about a microsecond on one core).
constexpr int64_t kSerialElements = 4096;
constexpr int32_t kSampleParts = 4;  // a thread: rows differ in what drawing them takes

RopeStoreRow RowOf(const RopeStoreKvParams& params, int32_t r) {
  const KvLayer& cache = params.cache;
  const int64_t head_bytes = KvHeadBytes(cache.dtype, cache.block_size, cache.head_dim);
  const int32_t slot = params.slots[r];
  const int64_t block = slot / cache.block_size * (cache.num_kv_heads * head_bytes);
  RopeStoreRow row;
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
  return row;
}

// Asks for the lines that a row's k and v go to: k lies transposed (ops.h), so each of its
// dimensions has a line of its own, all of them in memory.
void PrefetchSlot(const RopeStoreRow& row, int64_t code_bytes) {
  for (int32_t h = 0; h < row.num_kv_heads; ++h) {
    const uint8_t* const k = row.k + h * row.head_bytes + row.offset * code_bytes;
    const uint8_t* const v = row.v + h * row.head_bytes + row.offset * row.head_dim * code_bytes;
    for (int32_t d = 0; d < row.head_dim; ++d) {
      __builtin_prefetch(k + d * row.block_size * code_bytes, 1);
    }
    for (int64_t i = 0; i < row.head_dim * code_bytes; i += 64) __builtin_prefetch(v + i, 1);
  }
}

}  // namespace

CpuOps::CpuOps(ThreadPool& pool, CpuIsa isa, CpuActivations activations, const RowKernels& kernels)
    : pool_(pool),
      isa_(isa),
      activations_(activations),
      kernels_(kernels),
      attention_(pool, kernels),
      sample_scratch_(kSampleParts * pool.size()) {}

std::string CpuOps::TakeFault() { return std::exchange(fault_, {}); }

// fn(r) for every row, `cols` elements of work each.
void CpuOps::ForRows(int32_t rows, int64_t cols, absl::FunctionRef<void(int32_t)> fn) {
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

void CpuOps::Run(const EmbedParams& params) { EmbedCpu(pool_, params); }

void CpuOps::Run(const LinearParams& params) {
  LinearCpu(pool_, linear_scratch_, params, isa_, activations_, &kernels_);
}

void CpuOps::Run(const AttentionParams& params) { attention_.Run(params); }

void CpuOps::Run(const RmsNormParams& params) {
  ForRows(params.x.rows, params.x.cols, [&](int32_t r) {
    float* residual = params.residual ? params.residual.f32_row(r) : nullptr;
    kernels_.rms_norm(params.x.f32_row(r), residual, params.weight, params.epsilon, params.x.cols,
                      params.out.f32_row(r));
  });
}

void CpuOps::Run(const GatedActivationParams& params) {
  const int32_t cols = params.out.cols;
  ForRows(params.out.rows, cols, [&](int32_t r) {
    const float* gate = params.gate_up.f32_row(r);
    kernels_.gated(gate, gate + cols, 0, 1, cols, params.out.f32_row(r), 0);
  });
}

void CpuOps::Run(const GatherRowsParams& params) {
  for (int32_t r = 0; r < params.out.rows; ++r) {
    std::memcpy(params.out.f32_row(r), params.x.f32_row(params.rows[r]),
                sizeof(float) * params.out.cols);
  }
}

void CpuOps::Run(const RopeStoreKvParams& params) {
  const KvLayer& cache = params.cache;
  const auto rope_store = kernels_.ForCache(cache.dtype).rope_store;
  const auto code_bytes = static_cast<int64_t>(SizeOf(cache.dtype));
  ForRows(params.qkv.rows, params.qkv.cols, [&](int32_t r) {
    const RopeStoreRow row = RowOf(params, r);
    if (r + 1 < params.qkv.rows) {
      const RopeStoreRow next = RowOf(params, r + 1);
      if (next.k != row.k) PrefetchSlot(next, code_bytes);
    }
    rope_store(row);
  });
}

// A part has neighbouring rows: those that its thread computed the logits of (thread_pool.h).
void CpuOps::Run(const SampleParams& params) {
  std::atomic<int32_t> broken{-1};
  const auto rows = static_cast<int64_t>(params.rows.size());
  const auto parts =
      static_cast<int32_t>(std::min(rows, static_cast<int64_t>(sample_scratch_.size())));
  pool_.Run(parts, [&](int part) {
    const int64_t end = rows * (part + 1) / parts;
    for (int64_t i = rows * part / parts; i < end; ++i) {
      const SampleRow& row = params.rows[i];
      if (!SampleOneRow(kernels_, params.logits.f32_row(row.logits_row), params.logits.cols, row,
                        sample_scratch_[part], &params.out[i])) {
        broken.store(row.logits_row, std::memory_order_relaxed);
      }
      if (params.drawn != nullptr) params.drawn[i] = params.out[i].id;
    }
  });
  if (broken >= 0 && fault_.empty()) {
    fault_ = absl::StrCat("op 'sample' on cpu: logits row ", broken.load(),
                          " has no finite maximum (NaN, infinity or every id forbidden)");
  }
}

}  // namespace nibble::cpu

// bench_attention [--benchmark_filter=...]: attention on the shape of SmolLM2-135M (9 heads, 3 kv
// heads of 64, blocks of 32), a cache for each of 30 layers so that it comes from memory as in a
// real step. Prints bytes of k and v a second and multiply-adds a second; time is of all layers.
#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa.h"

namespace nibble {
namespace {

constexpr int32_t kLayers = 30, kHeads = 9, kKvHeads = 3, kHeadDim = 64, kBlockSize = 32;
constexpr int32_t kRow = (kHeads + 2 * kKvHeads) * kHeadDim;

Tensor Rows(std::vector<float>& values, int32_t cols) {
  Tensor tensor;
  tensor.data = values.data();
  tensor.rows = static_cast<int32_t>(values.size()) / cols;
  tensor.cols = tensor.stride = cols;
  return tensor;
}

// `batch` sequences of `context` tokens, the last `rows` of each attending.
class Attention {
 public:
  Attention(DType type, CpuIsa isa, int32_t threads, int32_t batch, int32_t context, int32_t rows)
      : q_(size_t(batch) * rows * kRow), out_(size_t(batch) * rows * kHeads * kHeadDim) {
    CpuOptions options;
    options.num_threads = threads;
    options.isa = isa;
    backend_ = CreateCpuBackend(options).value();
    const int32_t max_blocks = (context + kBlockSize - 1) / kBlockSize;
    cache_.dtype = type;
    cache_.num_blocks = batch * max_blocks;
    cache_.block_size = kBlockSize;
    cache_.num_kv_heads = kKvHeads;
    cache_.head_dim = kHeadDim;
    plane_ = int64_t{cache_.num_blocks} * kKvHeads * KvHeadBytes(type, kBlockSize, kHeadDim);
    memory_ = backend_->Allocate(2 * kLayers * plane_, "cache").value();
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : q_) x = normal(random);
    FillCache(random);
    table_.resize(cache_.num_blocks);
    std::iota(table_.begin(), table_.end(), 0);
    for (int32_t s = 0; s <= batch; ++s) cu_seqlens_.push_back(s * rows);
    contexts_.assign(batch, context);
    params_.q = Rows(q_, kRow);
    params_.num_heads = kHeads;
    params_.num_seqs = batch;
    params_.max_blocks = max_blocks;
    params_.cu_seqlens_q = cu_seqlens_.data();
    params_.context_lens = contexts_.data();
    params_.block_table = table_.data();
    params_.scale = 0.125f;
    params_.out = Rows(out_, kHeads * kHeadDim);
  }

  void Run() {
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      params_.cache = Layer(layer);
      backend_->Attention(params_);
    }
  }
  int64_t bytes() const { return 2 * kLayers * plane_; }

 private:
  KvLayer Layer(int32_t layer) {
    KvLayer cache = cache_;
    cache.k = static_cast<char*>(memory_.data()) + 2 * layer * plane_;
    cache.v = static_cast<char*>(cache.k) + plane_;
    return cache;
  }
  void FillCache(std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> row(kRow);
    for (float& x : row) x = normal(random);
    const int32_t position = 0;
    for (int32_t slot = 0; slot < cache_.num_blocks * kBlockSize; ++slot) {
      RopeStoreKvParams store;
      store.qkv = Rows(row, kRow);
      store.num_heads = kHeads;
      store.positions = &position;
      store.slots = &slot;
      store.cache = Layer(0);
      backend_->RopeStoreKv(store);
      std::rotate(row.begin(), row.begin() + 7, row.end());
    }
    for (int32_t layer = 1; layer < kLayers; ++layer) {
      std::memcpy(Layer(layer).k, Layer(0).k, 2 * plane_);
    }
  }

  std::unique_ptr<Backend> backend_;
  KvLayer cache_;
  int64_t plane_ = 0;
  DeviceBuffer memory_;
  std::vector<float> q_, out_;
  std::vector<int32_t> table_, cu_seqlens_, contexts_;
  AttentionParams params_;
};

// {type, isa, threads, batch, context, rows}
void Op(benchmark::State& state) {
  const auto type = static_cast<DType>(state.range(0));
  const auto isa = static_cast<CpuIsa>(state.range(1));
  if (!ChooseIsa(isa).ok()) return state.SkipWithError("this machine lacks the isa");
  const int64_t batch = state.range(3), context = state.range(4), rows = state.range(5);
  Attention attention(type, isa, static_cast<int32_t>(state.range(2)), static_cast<int32_t>(batch),
                      static_cast<int32_t>(context), static_cast<int32_t>(rows));
  for (auto _ : state) attention.Run();
  const int64_t seen = rows * (context - rows) + rows * (rows + 1) / 2;  // positions, of all rows
  const double macs = 2.0 * kLayers * kHeads * kHeadDim * static_cast<double>(batch * seen);
  constexpr auto kRate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["kv_B/s"] = benchmark::Counter(static_cast<double>(attention.bytes()), kRate);
  state.counters["MAC/s"] = benchmark::Counter(macs, kRate);
}

void Cases(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"type", "isa", "threads", "batch", "context", "rows"});
  const auto add = [bench](DType type, CpuIsa isa, int64_t batch, int64_t context, int64_t rows) {
    for (const int64_t threads : {1, 2}) {
      bench->Args(
          {static_cast<int64_t>(type), static_cast<int64_t>(isa), threads, batch, context, rows});
    }
  };
  for (const CpuIsa isa : {CpuIsa::kAvx512VnniBf16, CpuIsa::kAvx512Vnni, CpuIsa::kAvx2}) {
    for (const DType type : {DType::kF16, DType::kBf16, DType::kI8, DType::kF8E4M3}) {
      for (const int64_t context : {128, 1024, 4096}) add(type, isa, 1, context, 1);
      add(type, isa, 32, 160, 1);
      for (const int64_t context : {512, 4096}) add(type, isa, 1, context, 512);
    }
  }
  bench->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK(Op)->Apply(Cases);

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();

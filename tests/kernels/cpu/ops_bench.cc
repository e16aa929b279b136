// bench_ops [--benchmark_filter=...]: every op but linear, with the shapes of SmolLM2-135M, for
// every instruction set of this machine. Reports the bytes an op must read and write and, where it
// has any, multiply-adds a second. Attention counts k and v once, and its cache is as large as one
// layer's: a real step, with 30 layers, finds less of it in a cache.
#include <string>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/cpu/isa.h"
#include "tests/kernels/cpu/op_data.h"

namespace nibble {
namespace {

std::unique_ptr<Backend> BackendOf(CpuIsa isa, const benchmark::State& state) {
  CpuOptions options;
  options.isa = isa;
  options.num_threads = static_cast<int32_t>(state.range(1));
  return CreateCpuBackend(options).value();
}

void Report(benchmark::State& state, int64_t bytes, int64_t macs) {
  const double times = static_cast<double>(state.iterations());
  state.counters["B/s"] =
      benchmark::Counter(times * static_cast<double>(bytes), benchmark::Counter::kIsRate);
  if (macs == 0) return;
  state.counters["MAC/s"] =
      benchmark::Counter(times * static_cast<double>(macs), benchmark::Counter::kIsRate);
}

// The argument n of each: context for decode, prompt tokens for prefill, rows for the others.
void AttentionDecode(benchmark::State& state, CpuIsa isa, int32_t num_seqs) {
  const auto backend = BackendOf(isa, state);
  AttentionOp op(*backend, num_seqs, static_cast<int32_t>(state.range(0)), 1);
  for (auto _ : state) op.Attend();
  Report(state, op.kv_bytes(), op.macs());
}

void AttentionPrefill(benchmark::State& state, CpuIsa isa) {
  const auto backend = BackendOf(isa, state);
  const auto tokens = static_cast<int32_t>(state.range(0));
  AttentionOp op(*backend, 1, tokens, tokens);
  for (auto _ : state) op.Attend();
  Report(state, op.kv_bytes(), op.macs());
}

void RopeStore(benchmark::State& state, CpuIsa isa) {
  const auto backend = BackendOf(isa, state);
  const auto rows = static_cast<int32_t>(state.range(0));
  AttentionOp op(*backend, 1, rows, rows);
  for (auto _ : state) op.RopeStore();
  Report(state, 2 * op.qkv_bytes() + op.kv_bytes(), 0);
}

void RmsNorm(benchmark::State& state, CpuIsa isa) {
  const auto backend = BackendOf(isa, state);
  const auto rows = static_cast<int32_t>(state.range(0));
  std::mt19937 random(1);
  std::vector<float> x = RandomFloats(random, static_cast<size_t>(rows) * kHidden), out = x;
  const std::vector<float> weight = RandomFloats(random, kHidden);
  RmsNormParams params;
  params.x = RowsOf(x, rows, kHidden);
  params.weight = weight.data();
  params.epsilon = 1e-5f;
  params.out = RowsOf(out, rows, kHidden);
  for (auto _ : state) backend->RmsNorm(params);
  Report(state, int64_t{rows} * kHidden * 8, 0);
}

void Gated(benchmark::State& state, CpuIsa isa) {
  const auto backend = BackendOf(isa, state);
  const auto rows = static_cast<int32_t>(state.range(0));
  std::mt19937 random(1);
  std::vector<float> gate_up = RandomFloats(random, static_cast<size_t>(rows) * 2 * kFfn);
  std::vector<float> out(static_cast<size_t>(rows) * kFfn);
  GatedActivationParams params;
  params.gate_up = RowsOf(gate_up, rows, 2 * kFfn);
  params.out = RowsOf(out, rows, kFfn);
  for (auto _ : state) backend->GatedActivation(params);
  Report(state, int64_t{rows} * kFfn * 12, 0);
}

void Sample(benchmark::State& state, CpuIsa isa, float temperature, int32_t top_k, float top_p) {
  constexpr int32_t kVocab = 49152;
  const auto backend = BackendOf(isa, state);
  const auto rows = static_cast<int32_t>(state.range(0));
  std::mt19937 random(1);
  std::vector<float> logits = RandomFloats(random, static_cast<size_t>(rows) * kVocab, 3.0f);
  std::vector<SampleRow> sample_rows(rows);
  for (SampleRow& row : sample_rows) {
    row.temperature = temperature;
    row.top_k = top_k;
    row.top_p = top_p;
  }
  std::vector<SampledToken> out(rows);
  SampleParams params;
  params.logits = RowsOf(logits, rows, kVocab);
  params.rows = sample_rows;
  params.out = out.data();
  for (auto _ : state) {
    for (SampleRow& row : sample_rows) ++row.counter;
    backend->Sample(params);
  }
  Report(state, int64_t{rows} * kVocab * 4, 0);
}

template <typename... Parameters>
void Add(const std::string& name, std::vector<int> sizes,
         void (*run)(benchmark::State&, Parameters...), Parameters... parameters) {
  auto* bench = benchmark::RegisterBenchmark(name.c_str(), run, parameters...);
  bench->ArgNames({"n", "threads"})->UseRealTime()->Unit(benchmark::kMicrosecond);
  for (const int size : sizes) {
    for (const int threads : {1, 2}) bench->Args({size, threads});
  }
}

void Register() {
  for (const CpuIsa isa : SupportedIsas()) {
    const std::string in = absl::StrCat("/", IsaName(isa));
    Add("attention_decode_1" + in, {128, 1024, 4096}, AttentionDecode, isa, 1);
    Add("attention_decode_32" + in, {128, 1024}, AttentionDecode, isa, 32);
    Add("attention_prefill" + in, {128, 512, 2048}, AttentionPrefill, isa);
    Add("rope_store" + in, {1, 32, 512}, RopeStore, isa);
    Add("rms_norm" + in, {1, 32, 512}, RmsNorm, isa);
    Add("gated" + in, {1, 32, 512}, Gated, isa);
    Add("sample_greedy" + in, {1, 32}, Sample, isa, 0.0f, 0, 1.0f);
    Add("sample_top_k_top_p" + in, {1, 32}, Sample, isa, 0.8f, 40, 0.95f);
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}

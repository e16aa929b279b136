// bench_linear [--benchmark_filter=...]: the linear op on the shapes of SmolLM2-135M, 2 threads,
// all weights of the model in turn so that they come from memory as in a real step. Prints GB/s of
// weights and multiply-adds a second.
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {
namespace {

struct Layer {
  int32_t rows;
  int32_t cols;
};
constexpr Layer kLayers[] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}};

std::vector<std::unique_ptr<PackedMatrix>> PackAll(bool q4_1, int copies) {
  cpu::WeightMemory memory;
  std::vector<std::unique_ptr<PackedMatrix>> packed;
  for (int i = 0; i < copies; ++i) {
    for (const Layer& layer : kLayers) {
      quant::Matrix matrix =
          quant::RandomMatrix({.rows = layer.rows, .cols = layer.cols, .offsets = q4_1}, i);
      for (size_t g = 0; g < matrix.scales.size() && !q4_1; ++g) {
        matrix.offsets.push_back(-8 * matrix.scales[g]);
      }
      packed.push_back(std::move(PackCpu(matrix, &memory).value()));
    }
  }
  return packed;
}

void RunModel(benchmark::State& state, const std::vector<std::unique_ptr<PackedMatrix>>& weights,
              int32_t rows, CpuIsa isa, CpuActivations activations) {
  ThreadPool pool(static_cast<int>(state.range(2)));
  LinearScratch scratch;
  int64_t bytes = 0, macs = 0;
  std::vector<float> x(static_cast<size_t>(rows) * 1536, 0.5f),
      y(static_cast<size_t>(rows) * 49152);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761u % 1000) - 500;
  for (auto _ : state) {
    for (const auto& weight : weights) {
      const PackedMatrix* const one[] = {weight.get()};
      LinearCpu(
          pool, scratch,
          {.x = {.data = x.data(), .rows = rows, .cols = weight->cols(), .stride = weight->cols()},
           .weights = one,
           .y = {.data = y.data(), .rows = rows, .cols = weight->rows(), .stride = weight->rows()}},
          isa, activations);
      bytes += weight->size_bytes();
      macs += static_cast<int64_t>(weight->rows()) * weight->cols() * rows;
    }
  }
  state.counters["weights_B/s"] =
      benchmark::Counter(static_cast<double>(bytes), benchmark::Counter::kIsRate);
  state.counters["MAC/s"] =
      benchmark::Counter(static_cast<double>(macs), benchmark::Counter::kIsRate);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.iterations()) * rows,
                                                  benchmark::Counter::kIsRate);
}

void Layers(benchmark::State& state, bool q4_1, CpuActivations activations) {
  const auto isa = static_cast<CpuIsa>(state.range(1));
  if (!ChooseIsa(isa).ok()) return state.SkipWithError("this machine lacks the isa");
  static const auto q4_0_weights = PackAll(false, 30);
  static const auto q4_1_weights = PackAll(true, 30);
  state.SetLabel(std::string(IsaName(isa)));
  RunModel(state, q4_1 ? q4_1_weights : q4_0_weights, static_cast<int32_t>(state.range(0)), isa,
           activations);
}

void Head(benchmark::State& state) {
  const auto isa = static_cast<CpuIsa>(state.range(1));
  if (!ChooseIsa(isa).ok()) return state.SkipWithError("this machine lacks the isa");
  static const auto weights = [] {
    cpu::WeightMemory memory;
    std::vector<std::unique_ptr<PackedMatrix>> head;
    head.push_back(
        std::move(PackCpu(quant::RandomMatrix(
                              {.format = quant::Format::kInt8, .rows = 49152, .cols = 576}, 1),
                          &memory)
                      .value()));
    return head;
  }();
  state.SetLabel(std::string(IsaName(isa)));
  RunModel(state, weights, static_cast<int32_t>(state.range(0)), isa, CpuActivations::kInt8);
}

void Shapes(benchmark::internal::Benchmark* bench) {
  for (const CpuIsa isa : SupportedIsas()) {
    if (isa == CpuIsa::kScalar || isa == CpuIsa::kAvx512VnniBf16) continue;  // slow; as avx512_vnni
    for (const int rows : {1, 8, 32, 512}) {
      for (const int threads : {1, 2}) bench->Args({rows, static_cast<int>(isa), threads});
    }
  }
  bench->ArgNames({"rows", "isa", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
}

BENCHMARK_CAPTURE(Layers, q4_1, true, CpuActivations::kInt8)->Apply(Shapes);
BENCHMARK_CAPTURE(Layers, q4_0, false, CpuActivations::kInt8)->Apply(Shapes);
BENCHMARK_CAPTURE(Layers, q4_1_f32_activations, true, CpuActivations::kF32)
    ->Args({1, static_cast<int>(CpuIsa::kAvx512Vnni), 2})
    ->Args({64, static_cast<int>(CpuIsa::kAvx512Vnni), 2})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(Head)
    ->Args({1, static_cast<int>(CpuIsa::kAvx512Vnni), 2})
    ->Args({8, static_cast<int>(CpuIsa::kAvx512Vnni), 2})
    ->Args({1, static_cast<int>(CpuIsa::kAvx2), 2})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace nibble

BENCHMARK_MAIN();

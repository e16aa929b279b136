// bench_linear [--benchmark_filter=...]: the linear op on the shapes of SmolLM2-135M, for every
// instruction set of this machine. Reports bytes of packed weights and multiply-adds a second.
#include <string>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/cpu/isa.h"
#include "tests/kernels/cpu/op_data.h"

namespace nibble {
namespace {

// Weights that take turns: together well above a last cache of 32 MiB, or one if that is enough.
constexpr int64_t kColdBytes = int64_t{96} << 20;

void Report(benchmark::State& state, double bytes, double macs) {
  const double times = static_cast<double>(state.iterations());
  state.counters["B/s"] = benchmark::Counter(times * bytes, benchmark::Counter::kIsRate);
  state.counters["MAC/s"] = benchmark::Counter(times * macs, benchmark::Counter::kIsRate);
}

void Linear(benchmark::State& state, CpuIsa isa, quant::RandomSpec weight,
            CpuActivations activations) {
  const auto rows = static_cast<int32_t>(state.range(0));
  CpuOptions options;
  options.isa = isa;
  options.activations = activations;
  options.num_threads = static_cast<int32_t>(state.range(1));
  const std::unique_ptr<Backend> backend = CreateCpuBackend(options).value();
  const int64_t bytes = int64_t{weight.rows} * weight.cols * 5 / 8;  // about
  const int copies = static_cast<int>(std::min<int64_t>(kColdBytes / bytes + 1, 40));
  LinearOp op(*backend, weight, rows, copies);
  for (auto _ : state) op.Run();
  Report(state, static_cast<double>(op.weight_bytes()), static_cast<double>(op.macs()));
}

struct Shape {
  int32_t out;
  int32_t in;
};

void Register() {
  const std::pair<const char*, quant::RandomSpec> formats[] = {
      {"q4_1", {.format = quant::Format::kInt4Affine, .offsets = true}},
      {"int8", {.format = quant::Format::kInt8}}};
  for (const CpuIsa isa : SupportedIsas()) {
    for (auto [format, spec] : formats) {
      for (const Shape shape : {Shape{576, 576}, Shape{192, 576}, Shape{1536, 576},
                                Shape{576, 1536}, Shape{49152, 576}}) {
        spec.rows = shape.out;
        spec.cols = shape.in;
        for (const CpuActivations activations : {CpuActivations::kInt8, CpuActivations::kF32}) {
          const bool is_f32 = activations == CpuActivations::kF32;
          const std::string name =
              absl::StrCat("linear/", IsaName(isa), "/", format, is_f32 ? "_f32" : "", "/",
                           shape.out, "x", shape.in);
          auto* bench = benchmark::RegisterBenchmark(name.c_str(), Linear, isa, spec, activations);
          bench->ArgNames({"rows", "threads"})->UseRealTime()->Unit(benchmark::kMicrosecond);
          for (const int rows : {1, 8, 32, 512}) {
            for (const int threads : {1, 2}) bench->Args({rows, threads});
          }
        }
      }
    }
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

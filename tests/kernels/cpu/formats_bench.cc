// bench_formats [--benchmark_filter=...]: the linear op on one matrix in every format, 2 threads,
// copies of it in turn so that they come from memory as in a real step. The odd shape has rows that
// are no multiple of 16 and columns that are one of 32 only. Prints GB/s of weights and
// multiply-adds a second.
#include <memory>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "tests/kernels/quant/random_matrix.h"

namespace nibble {
namespace {

using quant::Format;
using quant::RandomSpec;

constexpr int64_t kBytesInTurn = 64 << 20;  // twice the last-level cache of a small machine
constexpr int32_t kRows = 2048;
constexpr int32_t kCols = 1536;
constexpr int32_t kOddRows = 2041;
constexpr int32_t kOddCols = 1504;

quant::Matrix MatrixOf(RandomSpec spec, bool odd) {
  if (spec.group == kCols && odd) spec.group = kOddCols;
  if (spec.row_group == kRows && odd) spec.row_group = kOddRows;
  spec.rows = odd ? kOddRows : kRows;
  spec.cols = odd ? kOddCols : kCols;
  return quant::RandomMatrix(spec, 1);
}

// The copies of the matrix that is being timed; one matrix after another, as packing takes longer
// than timing.
struct Copies {
  std::string name;
  quant::Matrix matrix;
  std::vector<std::unique_ptr<PackedMatrix>> weights;

  void Prepare(const std::string& wanted, const RandomSpec& spec, bool odd) {
    if (name == wanted) return;
    name = wanted;
    matrix = MatrixOf(spec, odd);
    weights.clear();
    cpu::WeightMemory memory;
    for (int64_t bytes = 0; bytes < kBytesInTurn; bytes += weights.back()->size_bytes()) {
      weights.push_back(std::move(PackCpu(matrix, CpuActivations::kInt8, &memory).value()));
    }
  }
};

void Run(benchmark::State& state, const Copies& copies) {
  const auto isa = static_cast<CpuIsa>(state.range(1));
  if (!ChooseIsa(isa).ok()) return state.SkipWithError("this machine lacks the isa");
  const quant::Matrix& matrix = copies.matrix;
  const auto& weights = copies.weights;
  const auto rows = static_cast<int32_t>(state.range(0));
  std::vector<float> x(static_cast<size_t>(rows) * matrix.cols);
  std::vector<float> y(static_cast<size_t>(rows) * matrix.rows);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761u % 1000) - 500;
  ThreadPool pool(2);
  LinearScratch scratch;
  int64_t calls = 0;
  for (auto _ : state) {
    const PackedMatrix* const one[] = {weights[calls++ % weights.size()].get()};
    LinearCpu(pool, scratch,
              {.x = {.data = x.data(), .rows = rows, .cols = matrix.cols, .stride = matrix.cols},
               .weights = one,
               .y = {.data = y.data(), .rows = rows, .cols = matrix.rows, .stride = matrix.rows}},
              isa, CpuActivations::kInt8);
  }
  const auto elements = static_cast<double>(matrix.rows) * matrix.cols;
  const auto num_calls = static_cast<double>(calls);
  state.counters["bits"] = 8 * static_cast<double>(weights[0]->size_bytes()) / elements;
  state.counters["weights_B/s"] = benchmark::Counter(
      num_calls * static_cast<double>(weights[0]->size_bytes()), benchmark::Counter::kIsRate);
  state.counters["MAC/s"] =
      benchmark::Counter(num_calls * rows * elements, benchmark::Counter::kIsRate);
  state.SetLabel(std::string(IsaName(isa)));
}

struct Named {
  const char* name;
  RandomSpec spec;
};

const Named kFormats[] = {
    {"q4_1", {.offsets = true}},
    {"int4_g128", {.group = 128, .offsets = true}},
    {"q4_k", {.format = Format::kQ4K}},
    {"q5_1", {.format = Format::kInt5Affine, .offsets = true}},
    {"q5_k", {.format = Format::kQ5K}},
    {"q6_k", {.format = Format::kQ6K}},
    {"q8_0", {.format = Format::kInt8}},
    {"int8_row", {.format = Format::kInt8, .group = kCols}},
    {"iq4_nl", {.format = Format::kLut4, .table = RandomSpec::Table::kInteger}},
    {"mxfp4", {.format = Format::kLut4, .table = RandomSpec::Table::kHalves, .e8m0_scales = true}},
    {"nf4_g64", {.format = Format::kLut4, .group = 64, .f16_scales = false}},
    {"fp8_tensor", {.format = Format::kFp8, .group = kCols, .row_group = kRows}},
    {"fp8_block", {.format = Format::kFp8, .group = 128, .row_group = 128}},
    {"bf16", {.format = Format::kBf16, .group = 0}},
    {"f32", {.format = Format::kF32, .group = 0}},
};

bool FitsOddShape(const RandomSpec& spec) {
  const bool is_k_quant =
      spec.format == Format::kQ4K || spec.format == Format::kQ5K || spec.format == Format::kQ6K;
  const bool any_group = spec.format == Format::kFp8 || spec.group == 0 || spec.group == kCols;
  return !is_k_quant && (any_group || kOddCols % spec.group == 0);
}

void RegisterAll(Copies& copies) {
  for (const Named& format : kFormats) {
    for (const bool odd : {false, true}) {
      if (odd && !FitsOddShape(format.spec)) continue;
      const std::string name = std::string(format.name) + (odd ? "/odd" : "");
      auto* bench = benchmark::RegisterBenchmark(
          name.c_str(), [&copies, name, spec = format.spec, odd](benchmark::State& state) {
            copies.Prepare(name, spec, odd);
            Run(state, copies);
          });
      for (const CpuIsa isa : {CpuIsa::kAvx512Vnni, CpuIsa::kAvx2}) {
        for (const int rows : {1, 8, 64}) bench->Args({rows, static_cast<int>(isa)});
      }
      bench->ArgNames({"rows", "isa"})->Unit(benchmark::kMicrosecond)->UseRealTime();
    }
  }
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::Copies copies;
  nibble::RegisterAll(copies);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}

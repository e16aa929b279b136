#include "tests/gpu/op_sweep/sweep.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"

namespace nibble::sweep {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds of `times` steps.
absl::StatusOr<double> Run(Backend& backend, StepKey key, int64_t times,
                           absl::FunctionRef<void()> step) {
  const double start = Now();
  for (int64_t i = 0; i < times; ++i) backend.RunStep(key, step);
  NIBBLE_RETURN_IF_ERROR(backend.Synchronize());
  return Now() - start;
}

}  // namespace

std::string JsonLine(const Figure& figure) {
  return absl::StrFormat(
      R"({"op":"%s","variant":"%s","shape":"%s","rows":%d,"context":%d,"bytes":%d,"flops":%d,)"
      R"("microseconds":%.3f,"fastest_microseconds":%.3f})",
      figure.op, figure.variant, figure.shape, figure.rows, figure.context, figure.bytes,
      figure.flops, figure.microseconds, figure.fastest_microseconds);
}

absl::Status Time(Backend& backend, const Options& options, StepKey key, int32_t ops,
                  absl::FunctionRef<void()> step, Figure& figure) {
  const auto run = [&](int64_t times) { return Run(backend, key, times, step); };
  return TimeRuns(options, ops, run, figure);
}

absl::Status TimeRuns(const Options& options, int32_t ops,
                      absl::FunctionRef<absl::StatusOr<double>(int64_t times)> run,
                      Figure& figure) {
  constexpr int kBefore = 3;
  NIBBLE_RETURN_IF_ERROR(run(kBefore).status());
  NIBBLE_ASSIGN_OR_RETURN(const double once, run(1));
  const auto times =
      static_cast<int64_t>(std::clamp(options.seconds_each / std::max(once, 1e-6), 1.0, 1e4));
  std::vector<double> each;
  for (int32_t i = 0; i < options.repetitions; ++i) {
    NIBBLE_ASSIGN_OR_RETURN(const double took, run(times));
    each.push_back(took / static_cast<double>(times) / ops * 1e6);
  }
  std::sort(each.begin(), each.end());
  figure.microseconds = each[each.size() / 2];
  figure.fastest_microseconds = each.front();
  return absl::OkStatus();
}

absl::StatusOr<DeviceBuffer> FiniteBytes(Backend& backend, int64_t size_bytes, uint32_t seed) {
  // No exponent is all ones: below 2 in f16 and f32, in fp8 no NaN.
  constexpr uint64_t kFinite = 0xBF3FBF3FBF3FBF3F;
  NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer memory, backend.Allocate(size_bytes, "sweep"));
  std::mt19937_64 random(seed);
  constexpr int64_t kChunk = int64_t{8} << 20;
  std::vector<uint64_t> chunk(static_cast<size_t>(std::min(size_bytes, kChunk) / 8 + 1));
  for (uint64_t& word : chunk) word = random() & kFinite;
  for (int64_t at = 0; at < size_bytes; at += kChunk) {
    backend.CopyToDevice(static_cast<uint8_t*>(memory.data()) + at, chunk.data(),
                         std::min(kChunk, size_bytes - at));
  }
  return memory;
}

absl::StatusOr<DeviceBuffer> Ints(Backend& backend, const std::vector<int32_t>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(int32_t));
  NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer memory, backend.Allocate(bytes, "sweep"));
  backend.CopyToDevice(memory.data(), values.data(), bytes);
  return memory;
}

absl::StatusOr<Rows> Rows::Create(Backend& backend, DType dtype, int32_t rows, int32_t cols,
                                  uint32_t seed) {
  Rows made;
  const int64_t bytes = int64_t{rows} * cols * static_cast<int64_t>(SizeOf(dtype));
  NIBBLE_ASSIGN_OR_RETURN(made.memory_, FiniteBytes(backend, bytes, seed));
  made.tensor_.data = made.memory_.data();
  made.tensor_.rows = rows;
  made.tensor_.cols = made.tensor_.stride = cols;
  made.tensor_.dtype = dtype;
  return made;
}

}  // namespace nibble::sweep

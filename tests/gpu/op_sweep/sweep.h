// What single ops cost on a device, through Backend alone: so the same program runs on a CUDA
// device and, to be tested where there is none, on the CPU.
//
// An op is timed inside Backend::RunStep, which a CUDA backend replays as one graph: a step holds
// each op several times, over weights (or caches) that together are larger than any device's L2, so
// that every one comes from memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace nibble::sweep {

struct Options {
  bool small = false;          // shapes that a CPU does in no time: to test this program
  double seconds_each = 0.02;  // of timed work a repetition
  int32_t repetitions = 5;
  int64_t cold_bytes = int64_t{192} << 20;  // what a rotation is larger than; H200's L2 is 60 MB
};

// One line of output. Bytes and products are what the op cannot do without, whatever the kernel
// does.
struct Figure {
  std::string
      op;  // "linear", "decode_attention", "prefill_attention", "sample", "rms_norm", "copy"
  std::string variant;  // the format of the weight, the type of the cache, the kind of draw
  std::string shape;    // "gate_up"
  int32_t rows = 0;     // of x; sequences of decode attention; tokens of prefill attention
  int32_t context = 0;  // positions a sequence has, for attention
  int64_t bytes = 0;
  int64_t flops = 0;        // products and sums, 2 a multiply-add
  double microseconds = 0;  // of one op: the median of the repetitions
  double fastest_microseconds = 0;
};
std::string JsonLine(const Figure& figure);

// Hears each figure when it is there, so that a run that is cut off keeps those before.
using Report = absl::FunctionRef<void(const Figure&)>;

// A backend knows a step by its key, so what is another step with the same key needs another
// backend.
using MakeBackend = std::function<absl::StatusOr<std::unique_ptr<Backend>>()>;

// Each ends at the first error of the device.
absl::Status SweepLinear(const MakeBackend& make, const Options& options, Report report);
absl::Status SweepAttention(const MakeBackend& make, const Options& options, Report report);
absl::Status SweepRowOps(const MakeBackend& make, const Options& options,
                         Report report);  // copy, norm, sample
// The tiled linear by warps and by warp groups (kernels/cuda/tiled_linear.h). REQUIRES backends of
// CUDA. UNIMPLEMENTED in a program built without it.
absl::Status SweepTiledShapes(const MakeBackend& make, const Options& options, Report report);

// Fills microseconds of `figure` with what one of the `ops` that `step` calls takes. The step is
// run three times before: it is captured the second time. REQUIRES a `key` that `backend` has not
// had.
absl::Status Time(Backend& backend, const Options& options, StepKey key, int32_t ops,
                  absl::FunctionRef<void()> step, Figure& figure);

// The same of what `run` does: the seconds that so many times of `ops` ops take.
absl::Status TimeRuns(const Options& options, int32_t ops,
                      absl::FunctionRef<absl::StatusOr<double>(int64_t times)> run, Figure& figure);

// Rows in device memory, random and finite in any type.
class Rows {
 public:
  static absl::StatusOr<Rows> Create(Backend& backend, DType dtype, int32_t rows, int32_t cols,
                                     uint32_t seed);
  const Tensor& tensor() const { return tensor_; }

 private:
  DeviceBuffer memory_;
  Tensor tensor_;
};

// Device memory of random bytes that are finite numbers read as f32, f16, bf16 or fp8.
absl::StatusOr<DeviceBuffer> FiniteBytes(Backend& backend, int64_t size_bytes, uint32_t seed);
absl::StatusOr<DeviceBuffer> Ints(Backend& backend, const std::vector<int32_t>& values);

}  // namespace nibble::sweep

// The tiled linear by warps and by warp groups, these with as many stages as fit and with three,
// for the matrices of the 8B shape as the backend launches them: what only a device can choose
// between. Straight on the kernel, one launch after another on a stream of its own.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "kernels/cuda/tiled_linear.h"
#include "tests/gpu/op_sweep/sweep.h"

namespace nibble::sweep {
namespace {

using cuda::TiledCodes;
using cuda::TiledLayout;
using cuda::TiledLinear;
using cuda::TiledScales;

constexpr struct {
  const char* name;
  TiledLayout layout;
} kFormats[] = {
    {"int4-g128", {.group = 128}},
    {"nf4-g64", {.group = 64, .codes = TiledCodes::kLut4}},
    {"fp8", {.group = 64, .codes = TiledCodes::kE4m3, .scales = TiledScales::kRow}},
};

// The ways to multiply.
constexpr struct {
  const char* name;
  bool warp_groups;
  int32_t most_stages;
} kWays[] = {{"warps", false, 0}, {"warp groups", true, 0}, {"warp groups, 3 stages", true, 3}};

// The matrices of one launch.
struct Matrices {
  const char* name;
  std::vector<int32_t> outs;
  int32_t in;
};

std::vector<Matrices> AllMatrices(const Options& options) {
  if (options.small) return {{"small", {256, 128}, 128}};
  return {{"qkv", {4096, 1024, 1024}, 4096},
          {"o", {4096}, 4096},
          {"gate_up", {14336, 14336}, 4096},
          {"down", {4096}, 14336}};
}

absl::Status Told(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(std::string("tiled linear: ") + cudaGetErrorString(error));
}

// Calls over as many copies of the matrices as it takes for each to come from memory.
class Calls {
 public:
  static absl::StatusOr<Calls> Create(Backend& backend, const Options& options,
                                      const TiledLayout& layout, const Matrices& matrices,
                                      int32_t rows) {
    Calls made;
    made.bytes_ = int64_t{rows} * matrices.in * 2;
    TiledLinear call{.num_weights = static_cast<int32_t>(matrices.outs.size())};
    int64_t tile_bytes = 0, out = 0;
    for (size_t i = 0; i < matrices.outs.size(); ++i) {
      call.weights[i].layout = layout;
      call.weights[i].layout.rows = matrices.outs[i];
      call.weights[i].layout.cols = matrices.in;
      tile_bytes += cuda::TiledBytes(call.weights[i].layout);
      out += matrices.outs[i];
    }
    call.dtype = DType::kF16;
    call.rows = rows;
    call.x_stride = matrices.in;
    call.y_stride = static_cast<int32_t>(out);
    NIBBLE_ASSIGN_OR_RETURN(call.x, made.Take(backend, made.bytes_));
    NIBBLE_ASSIGN_OR_RETURN(call.workspace, made.Take(backend, TiledWorkspaceBytes(call) + 16));
    NIBBLE_RETURN_IF_ERROR(
        Told(cudaMemset(call.workspace, 0, static_cast<size_t>(TiledCounterBytes(call)))));
    NIBBLE_ASSIGN_OR_RETURN(void* const y, made.Take(backend, rows * out * 2));
    made.bytes_ += tile_bytes + rows * out * 2;
    const int64_t copies = options.small ? 2 : options.cold_bytes / tile_bytes + 2;
    for (int64_t copy = 0; copy < copies; ++copy) {
      NIBBLE_ASSIGN_OR_RETURN(void* const tiles, made.Take(backend, tile_bytes));
      int64_t at = 0, col = 0;
      for (int32_t i = 0; i < call.num_weights; ++i) {
        call.weights[i].tiles = static_cast<uint8_t*>(tiles) + at;
        call.weights[i].y = static_cast<uint16_t*>(y) + col;
        at += cuda::TiledBytes(call.weights[i].layout);
        col += call.weights[i].layout.rows;
      }
      made.calls_.push_back(call);
    }
    return made;
  }

  int64_t bytes() const { return bytes_; }  // of one: tiles, x and y
  size_t size() const { return calls_.size(); }

  // Seconds of all calls, `times` times.
  absl::StatusOr<double> Run(bool warp_groups, int32_t most_stages, int64_t times,
                             cudaStream_t stream) const {
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < times; ++i) {
      for (TiledLinear call : calls_) {
        call.warp_groups = warp_groups;
        call.most_stages = most_stages;
        NIBBLE_RETURN_IF_ERROR(Told(LaunchTiledLinear(call, stream)));
      }
    }
    NIBBLE_RETURN_IF_ERROR(Told(cudaStreamSynchronize(stream)));
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  absl::StatusOr<void*> Take(Backend& backend, int64_t size_bytes) {
    NIBBLE_ASSIGN_OR_RETURN(DeviceBuffer memory, FiniteBytes(backend, size_bytes, 1));
    memory_.push_back(std::move(memory));
    return memory_.back().data();
  }

  std::vector<DeviceBuffer> memory_;
  std::vector<TiledLinear> calls_;
  int64_t bytes_ = 0;
};

}  // namespace

absl::Status SweepTiledShapes(const MakeBackend& make, const Options& options, Report report) {
  NIBBLE_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, make());
  cudaStream_t stream = nullptr;
  NIBBLE_RETURN_IF_ERROR(Told(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)));
  const std::unique_ptr<CUstream_st, decltype(&cudaStreamDestroy)> owned(stream, cudaStreamDestroy);
  for (const auto& [name, layout] : kFormats) {
    for (const Matrices& matrices : AllMatrices(options)) {
      for (const int32_t rows : {1, 16, 32, 64, 128, 256}) {
        NIBBLE_ASSIGN_OR_RETURN(const Calls calls,
                                Calls::Create(*backend, options, layout, matrices, rows));
        NIBBLE_RETURN_IF_ERROR(backend->Synchronize());
        for (const auto& [way, warp_groups, most_stages] : kWays) {
          if (warp_groups && !cuda::HasWarpGroups(layout, rows)) continue;
          Figure figure{.op = "tiled_linear",
                        .variant = std::string(name) + ", " + way,
                        .shape = matrices.name,
                        .rows = rows};
          figure.bytes = calls.bytes();
          for (const int32_t out : matrices.outs)
            figure.flops += 2 * int64_t{rows} * out * matrices.in;
          const auto run = [&](int64_t times) {
            return calls.Run(warp_groups, most_stages, times, stream);
          };
          NIBBLE_RETURN_IF_ERROR(
              TimeRuns(options, static_cast<int32_t>(calls.size()), run, figure));
          report(figure);
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace nibble::sweep

#include <cstdint>

#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kLaneCols = 8;  // 16 bytes a lane

__device__ __forceinline__ int32_t ThreadOfRow() {
  return static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x);
}

// grid: (rows, runs of columns)
__global__ void __launch_bounds__(kThreads) Gather(const GatherCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow() * kLaneCols;
  if (col >= p.cols) return;
  const auto* from =
      static_cast<const uint16_t*>(p.x) + static_cast<int64_t>(p.ids[r]) * p.x_stride + col;
  auto* to = static_cast<uint16_t*>(p.out) + static_cast<int64_t>(r) * p.out_stride + col;
  ptx::StoreGlobal16(to, ptx::LoadGlobal16(from));
}

// An element of a part, with its scales.
__device__ __forceinline__ float Scaled(const GemmSums& part, int32_t r, int32_t col) {
  const int64_t at = static_cast<int64_t>(r) * part.stride + col;
  const float sum = part.is_int32 ? static_cast<float>(static_cast<const int32_t*>(part.sums)[at])
                                  : static_cast<const float*>(part.sums)[at];
  return part.row_scales == nullptr ? sum : sum * (part.row_scales[r] * part.col_scales[col]);
}

// An element of the parts side by side, with its bias.
__device__ __forceinline__ float FinishedSum(const FinishCall& p, int32_t r, int32_t col) {
  GemmSums part = p.parts[0];
  int32_t of_part = col;
#pragma unroll
  for (int32_t i = 1; i < FinishCall::kMostParts; ++i) {
    if (of_part < part.cols) continue;
    of_part -= part.cols;
    part = p.parts[i];
  }
  const float sum = Scaled(part, r, of_part);
  return p.bias == nullptr ? sum : sum + p.bias[col];
}

template <class Half>
__global__ void __launch_bounds__(kThreads) Finish(const FinishCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow();
  if (col >= FinishedCols(p)) return;
  uint16_t* y = static_cast<uint16_t*>(p.y) + static_cast<int64_t>(r) * p.y_stride + col;
  float sum = FinishedSum(p, r, col);
  if (p.accumulate) sum += Half::ToFloat(*y);
  *y = static_cast<uint16_t>(Half::Pack(sum, 0.0f));
}

template <class Half>
__global__ void __launch_bounds__(kThreads) FinishGated(const FinishCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow();
  if (col >= FinishedCols(p)) return;
  // As 16 bits hold them.
  const float gate = Half::Low(Half::Pack(Scaled(p.parts[0], r, col), 0.0f));
  const float up = Half::Low(Half::Pack(Scaled(p.parts[1], r, col), 0.0f));
  uint16_t* y = static_cast<uint16_t*>(p.y) + static_cast<int64_t>(r) * p.y_stride + col;
  *y = static_cast<uint16_t>(Half::Pack(Gate(gate, up), 0.0f));
}

__global__ void __launch_bounds__(kThreads) FinishF32(const FinishCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow();
  if (col >= FinishedCols(p)) return;
  float* y = static_cast<float*>(p.y) + static_cast<int64_t>(r) * p.y_stride + col;
  const float sum = FinishedSum(p, r, col);
  *y = p.accumulate ? *y + sum : sum;
}

using FinishKernel = void (*)(FinishCall);

FinishKernel KernelFor(const FinishCall& call) {
  if (call.dtype == DType::kF32) return FinishF32;
  if (call.gated) return call.dtype == DType::kBf16 ? FinishGated<Bf16> : FinishGated<F16>;
  return call.dtype == DType::kBf16 ? Finish<Bf16> : Finish<F16>;
}

// Whether every part is there, and the two of a gate are alike.
bool IsWhole(const FinishCall& call) {
  if (call.rows < 1 || call.num_parts < 1 || call.num_parts > FinishCall::kMostParts) return false;
  for (int32_t i = 0; i < call.num_parts; ++i) {
    const GemmSums& part = call.parts[i];
    if (part.cols < 1 || (part.row_scales == nullptr) != (part.col_scales == nullptr)) return false;
  }
  if (!call.gated) return true;
  return call.num_parts == 2 && call.parts[0].cols == call.parts[1].cols && call.bias == nullptr &&
         !call.accumulate && call.dtype != DType::kF32;
}

dim3 GridOf(int32_t rows, int32_t threads_a_row) {
  return dim3(static_cast<uint32_t>(rows),
              static_cast<uint32_t>((threads_a_row + kThreads - 1) / kThreads));
}

bool IsAligned(const void* pointer, int32_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % kLaneCols == 0;
}

}  // namespace

cudaError_t LaunchGather(const GatherCall& call, cudaStream_t stream) {
  const bool is_aligned = IsAligned(call.x, call.x_stride) &&
                          IsAligned(call.out, call.out_stride) && call.cols % kLaneCols == 0;
  if (call.rows < 1 || call.cols < 1 || !is_aligned) return cudaErrorInvalidValue;
  return Launch(Gather, {GridOf(call.rows, call.cols / kLaneCols), dim3(kThreads), 0, stream},
                call);
}

cudaError_t LaunchFinish(const FinishCall& call, cudaStream_t stream) {
  const bool known =
      call.dtype == DType::kBf16 || call.dtype == DType::kF16 || call.dtype == DType::kF32;
  if (!known || !IsWhole(call)) return cudaErrorInvalidValue;
  return Launch(KernelFor(call), {GridOf(call.rows, FinishedCols(call)), dim3(kThreads), 0, stream},
                call);
}

}  // namespace nibble::cuda

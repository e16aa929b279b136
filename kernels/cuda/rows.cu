#include <cstdint>

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

// A sum with its scales and its bias.
__device__ __forceinline__ float FinishedSum(const FinishCall& p, int32_t r, int32_t col) {
  const int64_t at = static_cast<int64_t>(r) * p.sums_stride + col;
  float sum = p.int32_sums ? static_cast<float>(static_cast<const int32_t*>(p.sums)[at])
                           : static_cast<const float*>(p.sums)[at];
  if (p.row_scales != nullptr) sum *= p.row_scales[r] * p.col_scales[col];
  if (p.bias != nullptr) sum += p.bias[col];
  return sum;
}

template <class Half>
__global__ void __launch_bounds__(kThreads) Finish(const FinishCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow();
  if (col >= p.cols) return;
  uint16_t* y = static_cast<uint16_t*>(p.y) + static_cast<int64_t>(r) * p.y_stride + col;
  float sum = FinishedSum(p, r, col);
  if (p.accumulate) sum += Half::ToFloat(*y);
  *y = static_cast<uint16_t>(Half::Pack(sum, 0.0f));
}

__global__ void __launch_bounds__(kThreads) FinishF32(const FinishCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow();
  if (col >= p.cols) return;
  float* y = static_cast<float*>(p.y) + static_cast<int64_t>(r) * p.y_stride + col;
  const float sum = FinishedSum(p, r, col);
  *y = p.accumulate ? *y + sum : sum;
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
  const bool is_whole = (call.row_scales == nullptr) == (call.col_scales == nullptr);
  if (call.rows < 1 || call.cols < 1 || !known || !is_whole) return cudaErrorInvalidValue;
  auto* const of_halves = call.dtype == DType::kBf16 ? Finish<Bf16> : Finish<F16>;
  return Launch(call.dtype == DType::kF32 ? FinishF32 : of_halves,
                {GridOf(call.rows, call.cols), dim3(kThreads), 0, stream}, call);
}

}  // namespace nibble::cuda

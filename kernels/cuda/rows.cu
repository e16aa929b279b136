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

template <class Half>
__global__ void __launch_bounds__(kThreads) Finish(const FinishCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x), col = ThreadOfRow();
  if (col >= p.cols) return;
  uint16_t* y = static_cast<uint16_t*>(p.y) + static_cast<int64_t>(r) * p.y_stride + col;
  float sum = p.sums[static_cast<int64_t>(r) * p.sums_stride + col];
  if (p.bias != nullptr) sum += p.bias[col];
  if (p.accumulate) sum += Half::ToFloat(*y);
  *y = static_cast<uint16_t>(Half::Pack(sum, 0.0f));
}

// A block a token: which sequence it is of, then that one's blocks.
__global__ void __launch_bounds__(kThreads) SplitTokens(const SplitTokensCall p) {
  const int32_t token = p.first + static_cast<int32_t>(blockIdx.x);
  int32_t low = 0, high = p.num_seqs - 1;  // the last sequence that begins at or before the token
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (p.cu_seqlens_q[middle] <= token) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int32_t length = p.context_lens[low] - (p.cu_seqlens_q[low + 1] - 1 - token);
  if (threadIdx.x == 0) p.token_lens[blockIdx.x] = length;
  // Of the prefix alone: the table's other entries may never have been written.
  const int32_t* from = p.block_table + static_cast<int64_t>(low) * p.max_blocks;
  int32_t* to = p.token_blocks + static_cast<int64_t>(blockIdx.x) * p.max_blocks;
  const int32_t blocks = (length + p.block_size - 1) / p.block_size;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < blocks; i += kThreads) to[i] = from[i];
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
  const bool known = call.dtype == DType::kBf16 || call.dtype == DType::kF16;
  if (call.rows < 1 || call.cols < 1 || !known) return cudaErrorInvalidValue;
  return Launch(call.dtype == DType::kBf16 ? Finish<Bf16> : Finish<F16>,
                {GridOf(call.rows, call.cols), dim3(kThreads), 0, stream}, call);
}

cudaError_t LaunchSplitTokens(const SplitTokensCall& call, cudaStream_t stream) {
  if (call.num_seqs < 1 || call.max_blocks < 1 || call.block_size < 1 || call.tokens < 1 ||
      call.first < 0) {
    return cudaErrorInvalidValue;
  }
  return Launch(SplitTokens, {dim3(static_cast<uint32_t>(call.tokens)), dim3(kThreads), 0, stream},
                call);
}

}  // namespace nibble::cuda

#include <cstdint>

#include "kernels/cuda/gate.cuh"
#include "kernels/cuda/row_block.cuh"
#include "kernels/cuda/row_ops.h"

namespace nibble::cuda {
namespace {

template <class Half>
__global__ void __launch_bounds__(kThreads) RmsNorm(const RmsNormCall p) {
  ptx::LaunchDependents();
  const RowToScale row = SumSquares<Half>(p);
  uint16_t* out = Row(p.out, p.out_stride);
  for (int col = static_cast<int>(threadIdx.x) * kScaledCols; col < p.cols;
       col += kThreads * kScaledCols) {
    ptx::StoreGlobal8(out + col, ScaledFour<Half>(row, p.weight, col));
  }
}

template <class Half>
__global__ void __launch_bounds__(kThreads) Gated(const GatedCall p) {
  ptx::LaunchDependents();
  const uint16_t* gate = Row(p.gate_up, p.gate_up_stride);
  uint16_t* out = Row(p.out, p.out_stride);
  for (int col = static_cast<int>(threadIdx.x) * kLaneCols; col < p.cols;
       col += kThreads * kLaneCols) {
    float v[kLaneCols], up[kLaneCols];
    Load<Half>(gate + col, v);
    Load<Half>(gate + p.cols + col, up);
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) v[i] = Gate(v[i], up[i]);
    Store<Half>(out + col, v);
  }
}

// Picks the kernel of a type and starts a block for each row.
template <class Call>
cudaError_t StartRows(void (*bf16)(Call), void (*f16)(Call), const Call& call,
                      cudaStream_t stream) {
  if (call.rows < 1 || call.cols < 1 || call.cols % kLaneCols != 0) return cudaErrorInvalidValue;
  if (call.dtype != DType::kBf16 && call.dtype != DType::kF16) return cudaErrorInvalidValue;
  return Launch(
      call.dtype == DType::kBf16 ? bf16 : f16,
      {dim3(static_cast<uint32_t>(call.rows)), dim3(kThreads), sizeof(SumsOfWarps), stream}, call);
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormCall& call, cudaStream_t stream) {
  if (!IsAligned(call.x, call.x_stride) || !IsAligned(call.residual, call.residual_stride) ||
      !IsAligned(call.weight, 0) || !IsAligned(call.out, call.out_stride)) {
    return cudaErrorInvalidValue;
  }
  return StartRows(RmsNorm<Bf16>, RmsNorm<F16>, call, stream);
}

cudaError_t LaunchGated(const GatedCall& call, cudaStream_t stream) {
  if (!IsAligned(call.gate_up, call.gate_up_stride) || !IsAligned(call.out, call.out_stride)) {
    return cudaErrorInvalidValue;
  }
  return StartRows(Gated<Bf16>, Gated<F16>, call, stream);
}

}  // namespace nibble::cuda

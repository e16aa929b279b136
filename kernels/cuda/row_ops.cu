#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kLaneCols = 8;  // 16 bytes a lane

struct Shared {
  float sums[kWarps];
};

__device__ __forceinline__ uint4 Load(const void* row, int col) {
  return ptx::LoadGlobal16(static_cast<const uint16_t*>(row) + col);
}

template <class Half>
__device__ __forceinline__ void Unpack(const uint4 v, float (&out)[kLaneCols]) {
  const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = Half::Low(pairs[i]);
    out[2 * i + 1] = Half::High(pairs[i]);
  }
}

template <class Half>
__device__ __forceinline__ void Store(void* row, int col, const float (&v)[kLaneCols]) {
  const uint4 packed = {Half::Pack(v[0], v[1]), Half::Pack(v[2], v[3]), Half::Pack(v[4], v[5]),
                        Half::Pack(v[6], v[7])};
  ptx::StoreGlobal16(static_cast<uint16_t*>(row) + col, packed);
}

// Of all threads' values: lanes pairwise, then warps in ascending order.
__device__ __forceinline__ float SumOfBlock(float value) {
  float(&sums)[kWarps] = SharedMemory<Shared>().sums;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += ptx::ShuffleXor(value, lanes);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  ptx::SyncThreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp];
  return sum;
}

__device__ __forceinline__ const uint16_t* Row(const void* rows, int32_t stride) {
  return static_cast<const uint16_t*>(rows) + static_cast<int64_t>(blockIdx.x) * stride;
}
__device__ __forceinline__ uint16_t* Row(void* rows, int32_t stride) {
  return static_cast<uint16_t*>(rows) + static_cast<int64_t>(blockIdx.x) * stride;
}

// The second pass of a norm takes four columns a lane: so many f32 weights are 16 bytes, and a
// warp's loads have no gaps.
constexpr int kScaledCols = 4;

template <class Half>
__device__ __forceinline__ void ScaleFour(const uint16_t* from, float scale, const float* weight,
                                          uint16_t* to) {
  const uint2 v = ptx::LoadGlobal8(from);
  const uint4 w = ptx::LoadGlobal16(weight);
  const auto scaled = [scale](float x, uint32_t bits) {
    return x * scale * ptx::FloatOfBits(bits);
  };
  ptx::StoreGlobal8(to, {Half::Pack(scaled(Half::Low(v.x), w.x), scaled(Half::High(v.x), w.y)),
                         Half::Pack(scaled(Half::Low(v.y), w.z), scaled(Half::High(v.y), w.w))});
}

template <class Half>
__global__ void __launch_bounds__(kThreads) RmsNorm(const RmsNormCall p) {
  ptx::LaunchDependents();
  const uint16_t* source = Row(p.x, p.x_stride);
  uint16_t* residual = p.residual == nullptr ? nullptr : Row(p.residual, p.residual_stride);
  float squares = 0;
  for (int col = static_cast<int>(threadIdx.x) * kLaneCols; col < p.cols;
       col += kThreads * kLaneCols) {
    float v[kLaneCols];
    Unpack<Half>(Load(source, col), v);
    if (residual != nullptr) {
      float onto[kLaneCols];
      Unpack<Half>(Load(residual, col), onto);
#pragma unroll
      for (int i = 0; i < kLaneCols; ++i) v[i] += onto[i];
      Store<Half>(residual, col, v);
      Unpack<Half>(Load(residual, col), v);  // as it was rounded
    }
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) squares += v[i] * v[i];
  }
  // Its barrier also shows every thread the residual that the others wrote.
  const float scale =
      ptx::InverseSqrt(SumOfBlock(squares) / static_cast<float>(p.cols) + p.epsilon);
  if (residual != nullptr) source = residual;
  uint16_t* out = Row(p.out, p.out_stride);
  for (int col = static_cast<int>(threadIdx.x) * kScaledCols; col < p.cols;
       col += kThreads * kScaledCols) {
    ScaleFour<Half>(source + col, scale, p.weight + col, out + col);
  }
}

template <class Half>
__global__ void __launch_bounds__(kThreads) Gated(const GatedCall p) {
  constexpr float kLog2E = 1.4426950408889634f;
  ptx::LaunchDependents();
  const uint16_t* gate = Row(p.gate_up, p.gate_up_stride);
  uint16_t* out = Row(p.out, p.out_stride);
  for (int col = static_cast<int>(threadIdx.x) * kLaneCols; col < p.cols;
       col += kThreads * kLaneCols) {
    float v[kLaneCols], up[kLaneCols];
    Unpack<Half>(Load(gate, col), v);
    Unpack<Half>(Load(gate, p.cols + col), up);
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) v[i] = v[i] / (1.0f + ptx::Exp2(-v[i] * kLog2E)) * up[i];
    Store<Half>(out, col, v);
  }
}

bool IsAligned(const void* pointer, int32_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % kLaneCols == 0;
}

// Picks the kernel of a type and starts a block for each row.
template <class Call>
cudaError_t StartRows(void (*bf16)(Call), void (*f16)(Call), const Call& call,
                      cudaStream_t stream) {
  if (call.rows < 1 || call.cols < 1 || call.cols % kLaneCols != 0) return cudaErrorInvalidValue;
  if (call.dtype != DType::kBf16 && call.dtype != DType::kF16) return cudaErrorInvalidValue;
  return Launch(call.dtype == DType::kBf16 ? bf16 : f16,
                {dim3(static_cast<uint32_t>(call.rows)), dim3(kThreads), sizeof(Shared), stream},
                call);
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

// A block of threads a row of 16-bit floats: what the kernels of such rows share, and the norm's
// arithmetic, which two kernels give the same bits.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_ops.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kLaneCols = 8;  // 16 bytes a lane

struct SumsOfWarps {
  float sums[kWarps];
};

template <class Half>
__device__ __forceinline__ void Load(const uint16_t* x, float (&v)[kLaneCols]) {
  const uint4 loaded = ptx::LoadGlobal16(x);
  const uint32_t pairs[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = Half::Low(pairs[i]);
    v[2 * i + 1] = Half::High(pairs[i]);
  }
}

template <class Half>
__device__ __forceinline__ void Store(uint16_t* to, const float (&v)[kLaneCols]) {
  const uint4 packed = {Half::Pack(v[0], v[1]), Half::Pack(v[2], v[3]), Half::Pack(v[4], v[5]),
                        Half::Pack(v[6], v[7])};
  ptx::StoreGlobal16(to, packed);
}

// Of all threads' values: lanes pairwise, then warps in ascending order. The block's shared memory
// begins with SumsOfWarps.
__device__ __forceinline__ float SumOfBlock(float value) {
  float(&sums)[kWarps] = SharedMemory<SumsOfWarps>().sums;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += ptx::ShuffleXor(value, lanes);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  ptx::SyncThreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp];
  return sum;
}

// The block's row.
__device__ __forceinline__ const uint16_t* Row(const void* rows, int32_t stride) {
  return static_cast<const uint16_t*>(rows) + static_cast<int64_t>(blockIdx.x) * stride;
}
__device__ __forceinline__ uint16_t* Row(void* rows, int32_t stride) {
  return static_cast<uint16_t*>(rows) + static_cast<int64_t>(blockIdx.x) * stride;
}

// What a norm multiplies by its weights: the row of x, or its sum with the residual, and the
// factor.
struct RowToScale {
  const uint16_t* source;
  float factor;
};

template <class Half>
__device__ __forceinline__ RowToScale SumSquares(const RmsNormCall& p) {
  const uint16_t* source = Row(p.x, p.x_stride);
  uint16_t* residual = p.residual == nullptr ? nullptr : Row(p.residual, p.residual_stride);
  float squares = 0;
  for (int col = static_cast<int>(threadIdx.x) * kLaneCols; col < p.cols;
       col += kThreads * kLaneCols) {
    float v[kLaneCols];
    Load<Half>(source + col, v);
    if (residual != nullptr) {
      float onto[kLaneCols];
      Load<Half>(residual + col, onto);
#pragma unroll
      for (int i = 0; i < kLaneCols; ++i) v[i] += onto[i];
      Store<Half>(residual + col, v);
      Load<Half>(residual + col, v);  // as it was rounded
    }
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) squares = ptx::Fma(v[i], v[i], squares);
  }
  // Its barrier also shows every thread the residual that the others wrote.
  const float mean = SumOfBlock(squares) / static_cast<float>(p.cols);
  return {residual == nullptr ? source : residual, ptx::InverseSqrt(mean + p.epsilon)};
}

// What follows the sum takes four columns a lane: so many f32 weights are 16 bytes, and a warp's
// loads have no gaps.
constexpr int kScaledCols = 4;

// The four results from `col` on.
template <class Half>
__device__ __forceinline__ uint2 ScaledFour(const RowToScale& row, const float* weight, int col) {
  const uint2 v = ptx::LoadGlobal8(row.source + col);
  const uint4 w = ptx::LoadGlobal16(weight + col);
  const auto scaled = [&row](float x, uint32_t bits) {
    return x * row.factor * ptx::FloatOfBits(bits);
  };
  return {Half::Pack(scaled(Half::Low(v.x), w.x), scaled(Half::High(v.x), w.y)),
          Half::Pack(scaled(Half::Low(v.y), w.z), scaled(Half::High(v.y), w.w))};
}

bool IsAligned(const void* pointer, int32_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % kLaneCols == 0;
}

}  // namespace
}  // namespace nibble::cuda

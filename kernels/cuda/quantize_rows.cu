#include <cstdint>

#include "kernels/cuda/cache_codes.cuh"
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/quantize_rows.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLaneCols = 8;  // 16 bytes of x; a block of 128 columns is half a warp's
constexpr float kLeastMagnitude = 1e-30f;

struct Shared {
  float largest[kWarps];
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

// The larger of two magnitudes' bits; those of an infinity and of NaN are above all others.
__device__ __forceinline__ uint32_t Larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

__device__ __forceinline__ uint32_t LargestOf(const float (&v)[kLaneCols]) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kLaneCols; ++i)
    largest = Larger(largest, ptx::BitsOfFloat(v[i]) & 0x7FFFFFFFu);
  return largest;
}

// Of the `lanes` neighbours that share a scale.
template <int kLanes>
__device__ __forceinline__ uint32_t LargestOfLanes(uint32_t largest) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
    largest = Larger(largest, ptx::ShuffleXor(largest, lanes));
  return largest;
}

struct Scale {
  float scale, inverse;  // to Codes::Encode's argument
};
template <class Codes>
__device__ __forceinline__ Scale ScaleOf(uint32_t largest_bits) {
  const float largest = ptx::FloatOfBits(largest_bits);
  if (largest_bits >= 0x7F800000u) return {ptx::FloatOfBits(0x7FC00000u), 0};
  if (largest < kLeastMagnitude) return {0, 0};
  return {largest / Codes::kLargest, Codes::kLargest * Codes::kEncodeUnit / largest};
}

// 8 codes of a lane.
template <class Codes>
__device__ __forceinline__ void Store(uint8_t* out, const float (&v)[kLaneCols], float inverse) {
  uint32_t words[2] = {};
#pragma unroll
  for (int i = 0; i < kLaneCols; ++i) {
    const uint32_t code = inverse == 0 ? 0 : Codes::Encode(ptx::Multiply(v[i], inverse));
    words[i / 4] |= code << (i % 4 * 8);
  }
  const uint2 packed = {words[0], words[1]};
  ptx::StoreGlobal8(out, packed);
}

// A block a row: its largest magnitude, then its codes.
template <class Half, class Codes>
__global__ void __launch_bounds__(kThreads) QuantizeRows(const QuantizeRowsCall p) {
  const int row = blockIdx.x, first = static_cast<int>(threadIdx.x) * kLaneCols;
  const auto* x = static_cast<const uint16_t*>(p.x) + static_cast<int64_t>(row) * p.x_stride;
  float v[kLaneCols];
  uint32_t largest = 0;
  for (int col = first; col < p.cols; col += kThreads * kLaneCols) {
    Load<Half>(x + col, v);
    largest = Larger(largest, LargestOf(v));
  }
  float(&of_warps)[kWarps] = SharedMemory<Shared>().largest;
  largest = LargestOfLanes<32>(largest);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = ptx::FloatOfBits(largest);
  ptx::SyncThreads();
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp)
    largest = Larger(largest, ptx::BitsOfFloat(of_warps[warp]));
  const Scale scale = ScaleOf<Codes>(largest);
  if (threadIdx.x == 0) p.scales[row] = scale.scale;
  uint8_t* out = p.out + static_cast<int64_t>(row) * p.cols;
  for (int col = first; col < p.cols; col += kThreads * kLaneCols) {
    Load<Half>(x + col, v);
    Store<Codes>(out + col, v, scale.inverse);
  }
}

// grid: (rows, runs of columns); 16 lanes a block of columns.
template <class Half>
__global__ void __launch_bounds__(kThreads) QuantizeBlocks(const QuantizeRowsCall p) {
  const int row = blockIdx.x;
  const int col = static_cast<int>(blockIdx.y * kThreads + threadIdx.x) * kLaneCols;
  const bool inside = col < p.cols;  // of whole blocks, so of half a warp alike
  float v[kLaneCols] = {};
  if (inside && row < p.rows)
    Load<Half>(static_cast<const uint16_t*>(p.x) + static_cast<int64_t>(row) * p.x_stride + col, v);
  const Scale scale = ScaleOf<E4m3Codes>(LargestOfLanes<kScaleBlock / kLaneCols>(LargestOf(v)));
  if (!inside) return;
  if (col % kScaleBlock == 0)
    p.scales[static_cast<int64_t>(col / kScaleBlock) * (p.rows + p.zero_rows) + row] = scale.scale;
  Store<E4m3Codes>(p.out + static_cast<int64_t>(row) * p.cols + col, v, scale.inverse);
}

template <class Half>
cudaError_t Start(const QuantizeRowsCall& call, cudaStream_t stream) {
  const auto rows = static_cast<uint32_t>(call.rows + call.zero_rows);
  if (call.codes == RowCodes::kE4m3Blocks) {
    const int32_t runs = (call.cols / kLaneCols + kThreads - 1) / kThreads;
    return Launch(QuantizeBlocks<Half>,
                  {dim3(rows, static_cast<uint32_t>(runs)), dim3(kThreads), 0, stream}, call);
  }
  return Launch(
      call.codes == RowCodes::kInt8 ? QuantizeRows<Half, I8Codes> : QuantizeRows<Half, E4m3Codes>,
      {dim3(rows), dim3(kThreads), sizeof(Shared), stream}, call);
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

cudaError_t LaunchQuantizeRows(const QuantizeRowsCall& call, cudaStream_t stream) {
  const int32_t unit = call.codes == RowCodes::kE4m3Blocks ? kScaleBlock : 16;
  const bool is_whole = call.rows > 0 && call.cols > 0 && call.cols % unit == 0 &&
                        call.x_stride % kLaneCols == 0 && call.scales != nullptr &&
                        (call.zero_rows == 0 || call.codes == RowCodes::kE4m3Blocks);
  if (!is_whole || !IsAligned(call.x) || !IsAligned(call.out)) return cudaErrorInvalidValue;
  if (call.dtype == DType::kBf16) return Start<Bf16>(call, stream);
  if (call.dtype == DType::kF16) return Start<F16>(call, stream);
  return cudaErrorInvalidValue;
}

}  // namespace nibble::cuda

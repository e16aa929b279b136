#include <cstdint>

#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/row_codes.cuh"

namespace nibble::cuda {
namespace {

// 8 codes of a lane; a block of 128 columns is half a warp's.
template <class Codes>
__device__ __forceinline__ void StoreCodes(uint8_t* out, const float (&v)[kLaneCols],
                                           float inverse) {
  const uint2 packed = {FourCodes<Codes>(v, inverse), FourCodes<Codes>(v + 4, inverse)};
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
  const CodeScale scale = ScaleOf<Codes>(LargestOfBlock(largest));
  if (threadIdx.x == 0) p.scales[row] = scale.scale;
  uint8_t* out = p.out + static_cast<int64_t>(row) * p.cols;
  for (int col = first; col < p.cols; col += kThreads * kLaneCols) {
    Load<Half>(x + col, v);
    StoreCodes<Codes>(out + col, v, scale.inverse);
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
  const CodeScale scale = ScaleOf<E4m3Codes>(LargestOfLanes<kScaleBlock / kLaneCols>(LargestOf(v)));
  if (!inside) return;
  if (col % kScaleBlock == 0)
    p.scales[static_cast<int64_t>(col / kScaleBlock) * (p.rows + p.zero_rows) + row] = scale.scale;
  StoreCodes<E4m3Codes>(p.out + static_cast<int64_t>(row) * p.cols + col, v, scale.inverse);
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
      {dim3(rows), dim3(kThreads), sizeof(RowCodesShared), stream}, call);
}

}  // namespace

cudaError_t LaunchQuantizeRows(const QuantizeRowsCall& call, cudaStream_t stream) {
  const int32_t unit = call.codes == RowCodes::kE4m3Blocks ? kScaleBlock : 16;
  const bool is_whole = call.rows > 0 && call.cols > 0 && call.cols % unit == 0 &&
                        call.scales != nullptr &&
                        (call.zero_rows == 0 || call.codes == RowCodes::kE4m3Blocks);
  if (!is_whole || !IsAligned(call.x, call.x_stride) || !IsAligned(call.out, 0))
    return cudaErrorInvalidValue;
  if (call.dtype == DType::kBf16) return Start<Bf16>(call, stream);
  if (call.dtype == DType::kF16) return Start<F16>(call, stream);
  return cudaErrorInvalidValue;
}

}  // namespace nibble::cuda

// Sums of x over the groups of a matrix in tiles's columns, for its offsets.
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tiled_linear.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kLaneCols = 8;  // 16 bytes a lane

struct Params {
  const uint16_t* x;
  float* sums;
  int32_t x_stride, rows, cols, padded_cols, group, sums_stride;
};

// A block a row, zeros past the last one. Lanes sum their 8 columns in ascending order, then
// pairwise with their neighbours.
template <class Half>
__global__ void __launch_bounds__(kThreads) GroupSums(const Params p) {
  ptx::LaunchDependents();
  const int row = blockIdx.x;
  const uint16_t* x = p.x + static_cast<int64_t>(row) * p.x_stride;
  for (int begin = 0; begin < p.padded_cols; begin += kThreads * kLaneCols) {
    const int col = begin + static_cast<int>(threadIdx.x) * kLaneCols;
    float sum = 0;
    if (row < p.rows && col < p.cols) {
      const uint4 v = ptx::LoadGlobal16(x + col);
      for (const uint32_t pair : {v.x, v.y, v.z, v.w})
        sum = sum + Half::Low(pair) + Half::High(pair);
    }
    for (int lanes = 1; lanes < p.group / kLaneCols; lanes *= 2) sum += ptx::ShuffleXor(sum, lanes);
    if (col % p.group == 0 && col < p.padded_cols)
      p.sums[col / p.group * p.sums_stride + row] = sum;
  }
}

}  // namespace

cudaError_t LaunchGroupSums(const TiledLinear& call, float* sums, cudaStream_t stream) {
  const bool known = call.dtype == DType::kBf16 || call.dtype == DType::kF16;
  if (!known || call.rows < 1 || call.x_stride % 8 != 0) return cudaErrorInvalidValue;
  const TiledLayout& layout = call.weights[0].layout;
  const Params p{static_cast<const uint16_t*>(call.x),
                 sums,
                 call.x_stride,
                 call.rows,
                 layout.cols,
                 ColTiles(layout) * TileCols(layout.codes),
                 layout.group,
                 GroupSumsStride(call.rows)};
  return Launch(call.dtype == DType::kBf16 ? GroupSums<Bf16> : GroupSums<F16>,
                {dim3(static_cast<uint32_t>(p.sums_stride)), dim3(kThreads), 0, stream}, p);
}

}  // namespace nibble::cuda

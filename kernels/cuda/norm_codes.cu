#include <cstdint>

#include "kernels/cuda/norm_codes.h"
#include "kernels/cuda/row_codes.cuh"

namespace nibble::cuda {
namespace {

struct Params {
  RmsNormCall norm;
  RowCodes codes;
  int32_t zero_rows;
  uint8_t* out;
  float* scales;
};

// Four results of the norm from `col` on, as 16 bits hold them; written, too, where they are
// wanted.
template <class Half>
__device__ __forceinline__ void Normed(const Params& p, const RowToScale& row, int col, bool write,
                                       float (&v)[kScaledCols]) {
  const uint2 four = ScaledFour<Half>(row, p.norm.weight, col);
  if (write && p.norm.out != nullptr)
    ptx::StoreGlobal8(Row(p.norm.out, p.norm.out_stride) + col, four);
  v[0] = Half::Low(four.x);
  v[1] = Half::High(four.x);
  v[2] = Half::Low(four.y);
  v[3] = Half::High(four.y);
}

__device__ __forceinline__ void StoreCodes(const Params& p, int col, uint32_t four) {
  uint8_t* const row = p.out + static_cast<int64_t>(blockIdx.x) * p.norm.cols;
  *reinterpret_cast<uint32_t*>(row + col) = four;
}

template <class Half, class Codes>
__global__ void __launch_bounds__(kThreads) NormCodes(const Params p) {
  ptx::LaunchDependents();
  const RowToScale row = SumSquares<Half>(p.norm);
  const int first = static_cast<int>(threadIdx.x) * kScaledCols;
  float v[kScaledCols];
  uint32_t largest = 0;
  for (int col = first; col < p.norm.cols; col += kThreads * kScaledCols) {
    Normed<Half>(p, row, col, true, v);
    largest = Larger(largest, LargestOf(v));
  }
  const CodeScale scale = ScaleOf<Codes>(LargestOfBlock(largest));
  if (threadIdx.x == 0) p.scales[blockIdx.x] = scale.scale;
  for (int col = first; col < p.norm.cols; col += kThreads * kScaledCols) {
    Normed<Half>(p, row, col, false, v);
    StoreCodes(p, col, FourCodes<Codes>(v, scale.inverse));
  }
}

// The columns of a scale are a warp's, so its codes are known at once; behind the norm's rows there
// are rows of zeros.
template <class Half>
__global__ void __launch_bounds__(kThreads) NormCodeBlocks(const Params p) {
  static_assert(kScaleBlock == 32 * kScaledCols);
  ptx::LaunchDependents();
  const int rows = p.norm.rows + p.zero_rows;
  const bool is_zero = static_cast<int>(blockIdx.x) >= p.norm.rows;
  RowToScale row = {};
  if (!is_zero) row = SumSquares<Half>(p.norm);
  for (int col = static_cast<int>(threadIdx.x) * kScaledCols; col < p.norm.cols;
       col += kThreads * kScaledCols) {
    float v[kScaledCols] = {};
    if (!is_zero) Normed<Half>(p, row, col, true, v);
    const CodeScale scale = ScaleOf<E4m3Codes>(LargestOfLanes<32>(LargestOf(v)));
    if (col % kScaleBlock == 0)
      p.scales[static_cast<int64_t>(col / kScaleBlock) * rows + blockIdx.x] = scale.scale;
    StoreCodes(p, col, FourCodes<E4m3Codes>(v, scale.inverse));
  }
}

template <class Half>
cudaError_t Start(const Params& p, cudaStream_t stream) {
  const auto rows = static_cast<uint32_t>(p.norm.rows + p.zero_rows);
  auto* const of_rows =
      p.codes == RowCodes::kInt8 ? NormCodes<Half, I8Codes> : NormCodes<Half, E4m3Codes>;
  return Launch(p.codes == RowCodes::kE4m3Blocks ? NormCodeBlocks<Half> : of_rows,
                {dim3(rows), dim3(kThreads), sizeof(RowCodesShared), stream}, p);
}

}  // namespace

cudaError_t LaunchNormCodes(const RmsNormCall& norm, const QuantizeRowsCall& codes,
                            cudaStream_t stream) {
  const int32_t unit = codes.codes == RowCodes::kE4m3Blocks ? kScaleBlock : 16;
  const bool is_whole = norm.rows > 0 && norm.cols > 0 && norm.cols % unit == 0 &&
                        codes.scales != nullptr && codes.out != nullptr &&
                        (codes.zero_rows == 0 || codes.codes == RowCodes::kE4m3Blocks);
  const bool is_aligned =
      IsAligned(norm.x, norm.x_stride) && IsAligned(norm.residual, norm.residual_stride) &&
      IsAligned(norm.weight, 0) && IsAligned(norm.out, norm.out_stride) && IsAligned(codes.out, 0);
  if (!is_whole || !is_aligned) return cudaErrorInvalidValue;
  const Params p = {norm, codes.codes, codes.zero_rows, codes.out, codes.scales};
  if (norm.dtype == DType::kBf16) return Start<Bf16>(p, stream);
  if (norm.dtype == DType::kF16) return Start<F16>(p, stream);
  return cudaErrorInvalidValue;
}

}  // namespace nibble::cuda

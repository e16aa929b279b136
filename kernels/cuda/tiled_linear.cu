#include <cstdint>

#include "kernels/cuda/tiled_linear.h"

namespace nibble::cuda {

// tiled_linear_int4_bf16.cu and so on: each a part of the kernel's variants.
cudaError_t StartInt4Bf16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartInt4F16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartInt8Bf16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartInt8F16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartFp8Bf16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartFp8F16(const TiledLinear& call, cudaStream_t stream);

namespace {

constexpr int32_t kRowsAtOnce = 64;
// Two blocks on each of an H100's 132 multiprocessors. A constant, whatever the device has: it
// decides in which order parts are added.
constexpr int32_t kBlocksWanted = 264;
constexpr int32_t kLeastTilesOfASplit = 4;  // as many as are in flight

int32_t PaddedRows(int32_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce; }
bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

int32_t TiledSplits(const TiledLayout& layout) {
  const int32_t wanted = (kBlocksWanted + RowTiles(layout) - 1) / RowTiles(layout);
  const int32_t most = (ColTiles(layout) + kLeastTilesOfASplit - 1) / kLeastTilesOfASplit;
  return wanted < most ? wanted : most;
}

// Whole sectors, so that the parts behind them begin at one.
int64_t TiledCounterBytes(const TiledLayout& layout, int32_t rows) {
  if (TiledSplits(layout) == 1) return 0;
  return (int64_t{RowTiles(layout)} * (PaddedRows(rows) / kRowsAtOnce) * 4 + 127) / 128 * 128;
}

int64_t TiledResultBytes(const TiledLayout& layout, int32_t rows) {
  const int64_t splits = TiledSplits(layout);
  if (splits == 1) return 0;
  return splits * RowTiles(layout) * kTileRows * PaddedRows(rows) * 4;
}

int64_t TiledCounterBytes(const TiledLinear& call) {
  int64_t bytes = 0;
  for (int32_t i = 0; i < call.num_weights; ++i)
    bytes += TiledCounterBytes(call.weights[i].layout, call.rows);
  return bytes;
}

int64_t TiledWorkspaceBytes(const TiledLinear& call) {
  int64_t bytes = TiledCounterBytes(call);
  for (int32_t i = 0; i < call.num_weights; ++i)
    bytes += TiledResultBytes(call.weights[i].layout, call.rows);
  return bytes;
}

cudaError_t LaunchTiledLinear(const TiledLinear& call, cudaStream_t stream) {
  if (call.num_weights < 1 || call.num_weights > kMostTiledWeights) return cudaErrorInvalidValue;
  const TiledLayout& layout = call.weights[0].layout;
  bool is_known = IsTiled(layout) && (call.dtype == DType::kBf16 || call.dtype == DType::kF16);
  bool is_aligned = IsAligned(call.x) && IsAligned(call.workspace) && IsAligned(call.group_sums) &&
                    call.x_stride % 8 == 0;
  for (int32_t i = 0; i < call.num_weights; ++i) {
    is_known = is_known && ShareALaunch(layout, call.weights[i].layout);
    is_aligned = is_aligned && IsAligned(call.weights[i].tiles);
  }
  if (!is_known || !is_aligned || call.rows < 1) return cudaErrorInvalidValue;
  const bool is_complete = (call.workspace != nullptr || TiledWorkspaceBytes(call) == 0) &&
                           (call.group_sums != nullptr || !layout.offsets);
  if (!is_complete) return cudaErrorInvalidValue;
  const bool is_bf16 = call.dtype == DType::kBf16;
  if (Is4Bit(layout.codes)) return (is_bf16 ? StartInt4Bf16 : StartInt4F16)(call, stream);
  if (layout.codes == TiledCodes::kInt8)
    return (is_bf16 ? StartInt8Bf16 : StartInt8F16)(call, stream);
  return (is_bf16 ? StartFp8Bf16 : StartFp8F16)(call, stream);
}

}  // namespace nibble::cuda

#include <algorithm>
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

// tiled_groups_int4_bf16.cu and so on: the same of warp groups.
cudaError_t StartGroupsInt4Bf16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartGroupsInt4F16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartGroupsInt8Bf16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartGroupsInt8F16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartGroupsFp8Bf16(const TiledLinear& call, cudaStream_t stream);
cudaError_t StartGroupsFp8F16(const TiledLinear& call, cudaStream_t stream);

namespace {

#ifdef NIBBLE_WARP_GROUPS
constexpr bool kWarpGroups = true;
#else
constexpr bool kWarpGroups = false;
#endif

constexpr int32_t kRowsAtOnce = 64, kMostRowsAtOnce = 128;  // the latter of warp groups
// Two blocks on each of an H100's 132 multiprocessors. A constant, whatever the device has.
constexpr int32_t kMostStretches = 264;
constexpr int32_t kLeastTilesOfAStretch = 4;                         // as many as are in flight
constexpr int64_t kMostTiles = (int64_t{1} << 32) / kMostStretches;  // which TiledCut multiplies

// For either kernel's blocks.
int32_t PaddedRows(int32_t rows) {
  if (rows <= kRowsAtOnce) return kRowsAtOnce;
  return (rows + kMostRowsAtOnce - 1) / kMostRowsAtOnce * kMostRowsAtOnce;
}
bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

TiledCut CutOf(const TiledLinear& call) {
  TiledCut cut;
  cut.col_tiles = ColTiles(call.weights[0].layout);
  for (int32_t i = 0; i < call.num_weights; ++i) cut.row_tiles += RowTiles(call.weights[i].layout);
  cut.stretches =
      std::clamp(cut.row_tiles * cut.col_tiles / kLeastTilesOfAStretch, 1, kMostStretches);
  return cut;
}

// Whole sectors, so that the parts behind them begin at one.
int64_t TiledCounterBytes(const TiledLinear& call) {
  const int64_t blocks = PaddedRows(call.rows) / kRowsAtOnce;
  return (blocks * CutOf(call).row_tiles * 4 + 127) / 128 * 128;
}

int64_t TiledWorkspaceBytes(const TiledLinear& call) {
  const int64_t slots = 2 * CutOf(call).stretches;
  return TiledCounterBytes(call) + slots * kTileRows * PaddedRows(call.rows) * 4;
}

cudaError_t LaunchTiledLinear(const TiledLinear& call, cudaStream_t stream) {
  if (call.num_weights < 1 || call.num_weights > kMostTiledWeights) return cudaErrorInvalidValue;
  const TiledLayout& layout = call.weights[0].layout;
  bool is_known = IsTiled(layout) && (call.dtype == DType::kBf16 || call.dtype == DType::kF16);
  bool is_aligned = IsAligned(call.x) && IsAligned(call.workspace) && IsAligned(call.group_sums) &&
                    call.x_stride % 8 == 0;
  int64_t tiles = 0;
  for (int32_t i = 0; i < call.num_weights; ++i) {
    tiles += int64_t{RowTiles(call.weights[i].layout)} * ColTiles(layout);
    is_known = is_known && ShareALaunch(layout, call.weights[i].layout);
    is_aligned = is_aligned && IsAligned(call.weights[i].tiles);
  }
  if (!is_known || !is_aligned || call.rows < 1 || tiles > kMostTiles) return cudaErrorInvalidValue;
  const bool is_complete =
      call.workspace != nullptr && (call.group_sums != nullptr || !layout.offsets);
  if (!is_complete) return cudaErrorInvalidValue;
  const bool is_bf16 = call.dtype == DType::kBf16;
  if (kWarpGroups && call.warp_groups && HasWarpGroups(layout, call.rows)) {
    if (Is4Bit(layout.codes))
      return (is_bf16 ? StartGroupsInt4Bf16 : StartGroupsInt4F16)(call, stream);
    if (layout.codes == TiledCodes::kInt8)
      return (is_bf16 ? StartGroupsInt8Bf16 : StartGroupsInt8F16)(call, stream);
    return (is_bf16 ? StartGroupsFp8Bf16 : StartGroupsFp8F16)(call, stream);
  }
  if (Is4Bit(layout.codes)) return (is_bf16 ? StartInt4Bf16 : StartInt4F16)(call, stream);
  if (layout.codes == TiledCodes::kInt8)
    return (is_bf16 ? StartInt8Bf16 : StartInt8F16)(call, stream);
  return (is_bf16 ? StartFp8Bf16 : StartFp8F16)(call, stream);
}

}  // namespace nibble::cuda

#include <cstdint>

#include "kernels/cuda/w4_linear.h"

namespace nibble::cuda {

cudaError_t StartW4Bf16(const W4Linear& call, cudaStream_t stream);  // w4_linear_bf16.cu
cudaError_t StartW4F16(const W4Linear& call, cudaStream_t stream);   // w4_linear_f16.cu

namespace {

constexpr int32_t kRowsAtOnce = 64;
// Two blocks on each of an H100's 132 multiprocessors. A constant, whatever the device has: it
// decides in which order parts are added.
constexpr int32_t kBlocksWanted = 264;
constexpr int32_t kLeastTilesOfASplit = 4;  // as many as are in flight

int32_t PaddedRows(int32_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce; }
bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

int32_t W4Splits(const W4Layout& layout) {
  const int32_t wanted = (kBlocksWanted + W4RowTiles(layout) - 1) / W4RowTiles(layout);
  const int32_t most = (W4ColTiles(layout) + kLeastTilesOfASplit - 1) / kLeastTilesOfASplit;
  return wanted < most ? wanted : most;
}

// Whole sectors, so that the parts behind them begin at one.
int64_t W4CounterBytes(const W4Layout& layout, int32_t rows) {
  return (int64_t{W4RowTiles(layout)} * (PaddedRows(rows) / kRowsAtOnce) * 4 + 127) / 128 * 128;
}

int64_t W4WorkspaceBytes(const W4Layout& layout, int32_t rows) {
  const int64_t splits = W4Splits(layout);
  if (splits == 1) return 0;
  return W4CounterBytes(layout, rows) +
         splits * W4RowTiles(layout) * kW4TileRows * PaddedRows(rows) * 4;
}

cudaError_t LaunchW4Linear(const W4Linear& call, cudaStream_t stream) {
  const bool is_aligned = IsAligned(call.weights) && IsAligned(call.x) &&
                          IsAligned(call.workspace) && IsAligned(call.group_sums) &&
                          call.x_stride % 8 == 0;
  const bool is_complete = (call.workspace != nullptr || W4Splits(call.layout) == 1) &&
                           (call.group_sums != nullptr || !call.layout.offsets);
  if (!is_aligned || !is_complete || call.rows < 1) return cudaErrorInvalidValue;
  if (call.dtype == DType::kBf16) return StartW4Bf16(call, stream);
  if (call.dtype == DType::kF16) return StartW4F16(call, stream);
  return cudaErrorInvalidValue;
}

}  // namespace nibble::cuda

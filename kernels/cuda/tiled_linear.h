// y = x W^T for few rows of x and up to three W of 4-bit or 8-bit codes in tiles, in one launch:
// every weight is read once, for up to 64 rows of x at a time.
//
// How: weights are the 16-row operand of mma m16n8k16 and rows of x the 8 columns, so one row costs
// one n8 tile. Codes enter the mma as exact small integers, 8-bit floats or table entries; a
// group's (or a row's) sum is scaled in f32 afterwards; an offset m adds m * (the group's sum of
// x), which LaunchGroupSums makes beforehand. K is split among blocks by W's shape alone, and the
// last block of a tile adds the parts in ascending order: a row of y is the same bits whatever its
// neighbours, and whichever matrices a launch has beside its own.
//
// Memory-bound: reads TiledBytes(layout) + rows * cols * 2 * RowTiles bytes of each matrix, the
// latter from L2. Needs sm_80. Has run on sm_90 alone, an H200.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/tiled_layout.h"
#include "kernels/tensor.h"

namespace nibble::cuda {

inline constexpr int32_t kMostTiledWeights = 3;  // q, k and v

// One of the matrices of a call, and where its product goes.
struct TiledWeight {
  TiledLayout layout;
  const void* tiles = nullptr;  // as PackTiles lays them out, 16-byte aligned
  void* y = nullptr;            // [rows, layout.rows], rows y_stride elements apart
  const float* bias = nullptr;  // [layout.rows] or null
};

struct TiledLinear {
  TiledWeight weights[kMostTiledWeights];
  int32_t num_weights = 1;     // each of which may ShareALaunch with the first
  DType dtype = DType::kBf16;  // of x; or kF16
  const void* x =
      nullptr;  // [rows, cols], 16-byte aligned, rows x_stride elements apart (a multiple of 8)
  int32_t x_stride = 0;
  bool f32_y = false;  // every y is f32; else of x's type
  int32_t y_stride = 0;
  int32_t rows = 0;
  bool accumulate = false;            // y += instead of y =
  const float* group_sums = nullptr;  // of x, where the layouts have offsets
  // Weights are read while the kernels that write x and group_sums may still run (sm_90); the
  // launch is a dependent one (launch.cuh).
  bool early_weights = false;
  void* workspace =
      nullptr;  // TiledWorkspaceBytes, zeros before the first call; a call leaves them usable
};

// Into how many parts the columns are cut: by W's shape, never by rows or device.
int32_t TiledSplits(const TiledLayout& layout);
// What a call needs beside its operands is its matrices' need together, for at most `rows` rows:
// first the counters of arrived blocks of all of them, then their results of parts. Nothing where
// no matrix is cut. 16-byte aligned.
int64_t TiledCounterBytes(const TiledLayout& layout, int32_t rows);
int64_t TiledResultBytes(const TiledLayout& layout, int32_t rows);
int64_t TiledCounterBytes(const TiledLinear& call);
int64_t TiledWorkspaceBytes(const TiledLinear& call);

// Asynchronous. cudaErrorInvalidValue for misaligned x, tiles or strides, rows < 1, another
// dtype, layouts that PackTiles never makes or that share no launch, a missing workspace or missing
// sums; else the launch's error.
cudaError_t LaunchTiledLinear(const TiledLinear& call, cudaStream_t stream);

// sums[g][r] = the f32 sum of x[r] over columns g * group .. , 0 past the last column; of all of
// the call's matrices.
//   sums [GroupSumsGroups(layout), GroupSumsStride(rows)] f32, 16-byte aligned
// Errors as above.
constexpr int32_t GroupSumsGroups(const TiledLayout& layout) {
  return ColTiles(layout) * (TileCols(layout.codes) / layout.group);
}
constexpr int32_t GroupSumsStride(int32_t rows) { return (rows + 3) / 4 * 4; }
constexpr int64_t GroupSumsBytes(const TiledLayout& layout, int32_t rows) {
  return int64_t{GroupSumsGroups(layout)} * GroupSumsStride(rows) * 4;
}
cudaError_t LaunchGroupSums(const TiledLinear& call, float* sums, cudaStream_t stream);

}  // namespace nibble::cuda

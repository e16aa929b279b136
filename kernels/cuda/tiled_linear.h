// y = x W^T for rows of x and up to three W of 4-bit or 8-bit codes in tiles, in one launch: every
// weight comes from memory once, for all rows of x.
//
// How: weights are the operand of a product that has 16 rows (mma m16n8k16), or 64 (a warp group's,
// wgmma), and rows of x are its columns, so one row of x costs one n8 tile. Codes enter as exact
// small integers, 8-bit floats or table entries; a group's (or a row's) sum is scaled in f32
// afterwards; an offset m adds m * (the group's sum of x), which LaunchGroupSums makes beforehand.
// The tiles of all matrices are cut into stretches of equal length, one a block ("stream-K", arXiv
// 2301.03598), by the matrices' shapes alone, and whoever comes last adds the parts of a row of
// tiles in ascending order: a row of y is the same bits whatever its neighbours, in any launch of
// the same matrices.
//
// That the two products give the same bits is measured, not promised: on an H200 they do, for every
// format and for x of very unlike sizes (gpu_tiled_linear_test holds it).
//
// Memory-bound at few rows: reads TiledBytes(layout) + rows * cols * 2 * RowTiles bytes of each
// matrix, the latter from L2. Needs sm_80. Has run on sm_90 alone, an H200.
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
  TiledWeight weights[kMostTiledWeights] = {};
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
  // The device has products of warp groups and bulk copies (compute capability 9.0): they are used
  // where HasWarpGroups, in a program that is compiled for them (sm_90a).
  bool warp_groups = false;
  // Of warp groups: tiles in shared memory, two at least; 0 is as many as fit. What benchmarks
  // vary.
  int32_t most_stages = 0;
  void* workspace =
      nullptr;  // TiledWorkspaceBytes, zeros before the first call; a call leaves them usable
};

// Whether warp groups multiply so many rows of x: where groups of columns end after no fewer than
// four products, which run on while the next operands are decoded, and from the rows on that they
// are faster for (kernels/cuda/README.md).
constexpr bool HasWarpGroups(const TiledLayout& layout, int32_t rows) {
  return layout.group >= 64 && rows > (Is4Bit(layout.codes) ? 8 : 16);
}

// How the tiles of a call's matrices, row after row, are cut into stretches of equal length, a
// block each: by the matrices' shapes, never by rows of x or the device, since it decides in which
// order parts of a sum are added.
struct TiledCut {
  int32_t row_tiles = 0, col_tiles = 0;  // of all matrices
  int32_t stretches = 0;

  constexpr int32_t BeginOf(int32_t stretch) const {
    return static_cast<int32_t>(Product(stretch, row_tiles * col_tiles) /
                                static_cast<uint32_t>(stretches));
  }
  constexpr int32_t StretchOf(int32_t tile) const {
    return static_cast<int32_t>((Product(tile + 1, stretches) - 1) /
                                static_cast<uint32_t>(row_tiles * col_tiles));
  }

 private:
  static constexpr uint32_t Product(int32_t a, int32_t b) {
    return static_cast<uint32_t>(a) * static_cast<uint32_t>(b);
  }
};
TiledCut CutOf(const TiledLinear& call);

// What a call needs beside its operands for at most `rows` rows: first the counters of parts that
// have arrived, then the parts. 16-byte aligned.
int64_t TiledCounterBytes(const TiledLinear& call);
int64_t TiledWorkspaceBytes(const TiledLinear& call);

// Asynchronous. cudaErrorInvalidValue for misaligned x, tiles or strides, rows < 1, another
// dtype, layouts that PackTiles never makes or that share no launch, a missing workspace or missing
// sums; else the launch's error.
cudaError_t LaunchTiledLinear(const TiledLinear& call, cudaStream_t stream);

// sums[g][r] = the f32 sum of x[r] over columns g * group .. , 0 past the last column and the last
// row; of all of the call's matrices.
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

// Rows of a matrix in tiles as 16-bit floats, a slab of whole tiles at a time, for the GEMM.
//
// A block a tile, whose codes it reads as a pass of tiled_linear does, 16 bytes a lane and each
// byte once. What a lane then holds are pairs of columns, as mma wants them; the four lanes of a
// row exchange them until each has 8 columns in a row, and write whole sectors. Memory-bound: reads
// TiledBytes of the slab, writes 2 bytes an element. Needs sm_80. Has not run on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/rows.h"

namespace nibble::cuda {

// Whether LaunchDequantizeTiles can do it: tiles, no ids, and rows from a border between tiles on.
bool IsSlabOfTiles(const DequantizeCall& call);
// As LaunchDequantize, which calls it: the same values. REQUIRES IsSlabOfTiles, and what that
// requires.
cudaError_t LaunchDequantizeTiles(const DequantizeCall& call, cudaStream_t stream);

}  // namespace nibble::cuda

// One instruction, or one pattern of accesses, a kernel: for the tests of the emulator's arithmetic
// and counters, and one day of a real device's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/tensor_map.cuh"

namespace nibble::cuda {

// d += a * b by one mma of one warp; registers in the order [lane][register]: a [32, 4], b [32, 2],
// d [32, 4].
cudaError_t ProbeMma(bool bf16, const uint32_t* a, const uint32_t* b, float* d);

// d = a * b, or += with `add`, by one product of a warp group (sm_90a): registers of 128 threads in
// the order [thread][register], a [128, 4], d [128, 4 tiles]; b [8 tiles, 64] 16-bit values as they
// are to lie in shared memory, of which columns 16 step .. are multiplied. 2, 4, 8 or 16 tiles.
struct GroupProbe {
  bool bf16 = false, add = false;
  int tiles = 4, step = 0;
};
cudaError_t ProbeGroupProduct(const GroupProbe& probe, const uint32_t* a, const uint32_t* b,
                              float* d);

// A box of 8 rows x 64 columns from (row, col) of the matrix on, by one copy of its rows (sm_90),
// as it lies in shared memory: out [8, 64]. REQUIRES boxes of 8 rows.
cudaError_t ProbeCopyRows(const SwizzledRowsOf& matrix, int col, int row, uint16_t* out);

// Loads four 8 x 8 matrices of 16-bit values, [4, 8, 8], into registers [lane][matrix]; transposed
// in memory order when asked.
cudaError_t ProbeLoadMatrix(bool transposed, const uint32_t* matrices, uint32_t* registers);
// One matrix in registers [32] to its transpose.
cudaError_t ProbeTranspose(const uint32_t* in, uint32_t* out);

// out[lane] = BytePermute(in[lane], in[lane + 32], in[lane + 64]) of 32 lanes.
cudaError_t ProbeBytePermute(const uint32_t* in, uint32_t* out);
// Each of 32 lanes adds in[lane] to counter lane % 8, zero at first. out[lane]: the counter after
// it; out[32 + lane]: what it was before the lane's own addition.
cudaError_t ProbeAtomicAddShared(const uint32_t* in, uint32_t* out);

// Takes 64 registers of four codes, int8 or e4m3, to 64 times two pairs of 16-bit values by Widen
// (cache_codes.cuh), or Unpack where asked; `apart` as kApart.
struct WidenProbe {
  bool int8 = false, f16 = false, unpack = false, apart = false;
};
cudaError_t ProbeWiden(const WidenProbe& probe, const uint32_t* in, uint32_t* out);

// out[lane] = Max(in[lane], in[lane + 32]) of 32 lanes.
cudaError_t ProbeMax(const float* in, float* out);

// Each of 32 threads reads 4 (or 16) bytes (of shared memory also 8) at 4-byte word thread *
// stride, from global to shared and back, and writes them at thread * 4 words.
cudaError_t ProbeRead4(const uint32_t* in, uint32_t* out, int stride);
cudaError_t ProbeRead16(const uint32_t* in, uint32_t* out, int stride);
cudaError_t ProbeShared4(uint32_t* out, int stride);
cudaError_t ProbeShared8(const uint32_t* in, uint32_t* out, int stride);
cudaError_t ProbeShared16(const uint32_t* in, uint32_t* out, int stride);

}  // namespace nibble::cuda

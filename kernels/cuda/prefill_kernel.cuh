// The kernel of prefill_attention.h, for each kind of cache (prefill_attention.cu, .._codes.cu).
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_columns.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_attention.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256, kWarps = 8;
constexpr int kTiles = 2;  // of 8 columns a warp: a split's sums and the fold's stay in registers
constexpr int kWarpColumns = kTiles * kColumns, kBlockColumns = kWarps * kWarpColumns;

template <class Codes, int kDim>
struct Shared {
  Tiles<Codes, kDim, Codes::kScaled> tiles;
  alignas(128) uint16_t q[kBlockColumns * kDim];
  int32_t lengths[kBlockColumns];  // how many positions a column sees
};

// Which rows and heads this block's columns are: column c is head c % heads of row c / heads.
struct Place {
  int seq, kv_head, heads;
  int first_row, num_rows;  // of the launch's rows
  int start;                // position of the first of them

  __device__ __forceinline__ explicit Place(const PrefillAttention& p) {
    seq = blockIdx.z;
    kv_head = blockIdx.y;
    heads = p.num_heads / p.num_kv_heads;
    const int begin = p.cu_seqlens_q[seq], rows = p.cu_seqlens_q[seq + 1] - begin;
    const int rows_of_block = kBlockColumns / heads;
    // The blocks that see most positions come first.
    const int first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * rows_of_block;
    first_row = begin + first;
    num_rows = rows - first < rows_of_block ? rows - first : rows_of_block;
    start = p.context_lens[seq] - rows + first;
  }
  __device__ __forceinline__ bool Has(int column) const { return column < num_rows * heads; }
  // How many positions a column sees.
  __device__ __forceinline__ int LengthOf(int column) const {
    return Has(column) ? start + column / heads + 1 : 0;
  }
  __device__ __forceinline__ int end() const { return start + num_rows; }
  // Offset of a column's head in rows of `stride` elements.
  __device__ __forceinline__ int64_t OffsetOf(int column, int32_t stride, int dim) const {
    return static_cast<int64_t>(first_row + column / heads) * stride +
           (kv_head * heads + column % heads) * dim;
  }
};

// Starts copying q of the block's columns; columns past its rows become zeros.
template <int kDim>
__device__ __forceinline__ void CopyQuery(const PrefillAttention& p, const Place& at, uint16_t* q) {
  constexpr int kChunks = kDim / 8;
#pragma unroll
  for (int i = 0; i < kBlockColumns * kChunks / kThreads; ++i) {
    const int column = (i * kThreads + static_cast<int>(threadIdx.x)) / kChunks;
    const int chunk = threadIdx.x % kChunks;
    const bool inside = at.Has(column);
    const int64_t from = at.OffsetOf(inside ? column : 0, p.q_stride, kDim) + chunk * 8;
    ptx::CopyAsync16(ptx::SharedAddress(q + ChunkOf<kDim>(column, chunk)),
                     static_cast<const uint16_t*>(p.q) + from, inside ? 16 : 0);
  }
}

// A tile of positions from `first` on, for one warp's columns.
template <class Half, class Codes, int kDim, class AnyTile>
__device__ __forceinline__ void AttendTile(const Shared<Codes, kDim>& shared,
                                           const AnyTile& positions, int first, float scale,
                                           int first_column, Running<kTiles, kDim / 16>& run) {
  float scores[kSteps][kTiles][4] = {};
#pragma unroll
  for (int part = 0; part < kDim / 32; ++part) {
    uint32_t q[kTiles][2][2];  // of 128 dimensions not all would fit
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
      LoadQuery<kDim>(shared.q, first_column + tile * kColumns, part, q[tile]);
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
      Score<Half, kDim, kTiles>(positions.k, step * 16, part, q, scores[step]);
  }
  const int32_t* lengths = shared.lengths + first_column + ptx::ThreadIndex() % 4 * 2;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int a = lengths[tile * kColumns] - first, b = lengths[tile * kColumns + 1] - first;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int left[2] = {a - step * 16, b - step * 16};
      Mask<Codes::kScaled>(left, scale, ScalesOf<Codes>(positions, 0) + step * 16,
                           scores[step][tile]);
    }
  }
  run.Weigh(scores);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    if constexpr (Codes::kScaled) {
      ScaleWeights<kTiles>(ScalesOf<Codes>(positions, 1) + step * 16, 1 / UnitOf<Half, Codes>(),
                           scores[step]);
    }
    AddValues<Half, kDim, kDim / 16, kTiles>(positions.v, step * 16, 0, scores[step], run.out);
  }
}

// grid: (runs of rows of the longest chunk, kv heads, sequences)
template <class Half, class Codes, int kDim>
__global__ void __launch_bounds__(kThreads, 1) PrefillKernel(const PrefillAttention p) {
  auto& shared = SharedMemory<Shared<Codes, kDim>>();
  const Place at(p);
  if (at.num_rows <= 0) return;
  const Pages pages{static_cast<const uint8_t*>(p.k),
                    static_cast<const uint8_t*>(p.v),
                    p.block_table + static_cast<int64_t>(at.seq) * p.max_blocks,
                    p.block_size,
                    p.num_kv_heads,
                    at.kv_head};
  const int end = at.end();
  for (int stage = 0; stage < kStages; ++stage) FindRows(pages, stage * kTile, end, shared.tiles);
  if (threadIdx.x < kBlockColumns)
    shared.lengths[threadIdx.x] = at.LengthOf(static_cast<int>(threadIdx.x));
  ptx::SyncThreads();
  CopyQuery<kDim>(p, at, shared.q);
  for (int stage = 0; stage < kStages; ++stage)
    LoadTile<Codes, kDim, kThreads>(pages, stage * kTile, end, shared.tiles);
  if constexpr (Codes::kScaled) {
    ptx::WaitCopies<kStages - 1>();
    ptx::SyncThreads();
    InterleaveQuery<kDim, kThreads>(shared.q, kBlockColumns);  // TakeTile has the barrier
  }

  const int first_column = static_cast<int>(threadIdx.x) / 32 * kWarpColumns;
  int warp_end = 0;
  for (int column = first_column; column < first_column + kWarpColumns; ++column) {
    const int length = at.LengthOf(column);
    warp_end = length > warp_end ? length : warp_end;
  }

  Running<kTiles, kDim / 16> total, part;  // of the splits before this one; of this one
  total.Clear();
  part.Clear();
  const float scale = p.scale * kLog2E / UnitOf<Half, Codes>();
  for (int first = 0; first < end; first += kTile) {
    const auto& positions = TakeTile<Half, Codes, kDim, kThreads>(pages, first, end, shared.tiles);
    if (first < warp_end) {
      AttendTile<Half, Codes, kDim>(shared, positions, first, scale, first_column, part);
      const int next = first + kTile;
      if (next % kAttentionSplit == 0 || next >= warp_end) {
        part.SumLanes();
        total.Fold(part);
        part.Clear();
      }
    }
    ReturnTile<Codes, kDim, kThreads>(pages, first, end, shared.tiles);
  }
  ptx::WaitCopies<0>();
  const Place again(p);  // read once more, so that no register holds it through the loop
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int column = first_column + tile * kColumns + static_cast<int>(threadIdx.x) % 32 / 4;
    uint16_t* to = nullptr;
    if (again.Has(column))
      to = static_cast<uint16_t*>(p.out) + again.OffsetOf(column, p.out_stride, kDim);
    total.template Store<Half, false>(tile, 0, to);
  }
}

// --- host

template <class Half, class Codes, int kDim>
cudaError_t Start(const PrefillAttention& call, cudaStream_t stream) {
  const int rows = kBlockColumns / (call.num_heads / call.num_kv_heads);
  const dim3 grid(static_cast<uint32_t>((call.max_rows + rows - 1) / rows),
                  static_cast<uint32_t>(call.num_kv_heads), static_cast<uint32_t>(call.num_seqs));
  return Launch(PrefillKernel<Half, Codes, kDim>,
                {grid, dim3(kThreads), sizeof(Shared<Codes, kDim>), stream}, call);
}

template <class Half, class Codes>
cudaError_t StartForDim(const PrefillAttention& call, cudaStream_t stream) {
  if (call.head_dim == 128) return Start<Half, Codes, 128>(call, stream);
  return call.head_dim == 64 ? Start<Half, Codes, 64>(call, stream)
                             : Start<Half, Codes, 32>(call, stream);
}

template <class Codes>
cudaError_t StartPrefill(const PrefillAttention& call, cudaStream_t stream) {
  return call.dtype == DType::kBf16 ? StartForDim<Bf16, Codes>(call, stream)
                                    : StartForDim<F16, Codes>(call, stream);
}

}  // namespace
}  // namespace nibble::cuda

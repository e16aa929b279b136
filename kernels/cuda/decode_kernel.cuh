// The kernel of decode_attention.h, for each kind of cache (decode_attention.cu, .._codes.cu).
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention_columns.cuh"
#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kWarps = 4;
constexpr int kHeads = kColumns;

// Every warp scores 16 positions of a tile and adds up kRows * 16 dimensions of all of them; of 32
// dimensions two warps do.
template <int kDim>
constexpr int kRows = kDim / 16 < kWarps ? 1 : kDim / 16 / kWarps;
template <int kDim>
__device__ __forceinline__ int FirstDim() {
  return static_cast<int>(threadIdx.x) / 32 * 16 * kRows<kDim>;
}

// What warps tell each other of a tile, by the lane that it came from and goes to.
struct Scores {
  uint32_t scores[kSteps][32][4];
};
struct Weights {
  uint32_t weights[kSteps][32][4];       // as AddCodes takes them
  uint32_t sums[kSteps][32][2];          // of weights, for each lane's two columns
  uint32_t tops[kWarps][kHeads / 2][2];  // a warp's largest scores
};

template <class Codes, int kDim>
struct Shared {
  Tiles<Codes, kDim, false> tiles;
  alignas(128) uint16_t q[kHeads * kDim];
  alignas(16) std::conditional_t<Codes::kScaled, Weights, Scores> told;
  uint32_t is_last;
};

// What a split leaves in the workspace, as the lanes hold it.
template <int kDim>
struct Partial {
  uint32_t out[kDim / 16][32][4];
  float max[kHeads];
  float sum[kHeads];
};

// Which part of which row this block does.
struct Place {
  int split, seq, kv_head, first_head, num_heads, length, num_splits, group;

  __device__ __forceinline__ explicit Place(const DecodeAttention& p) {
    const int heads_of_kv = p.num_heads / p.num_kv_heads,
              packs = (heads_of_kv + kHeads - 1) / kHeads;
    group = blockIdx.y;
    split = blockIdx.x;
    seq = blockIdx.z;
    kv_head = group / packs;
    const int pack = group % packs * kHeads;
    first_head = kv_head * heads_of_kv + pack;
    num_heads = heads_of_kv - pack < kHeads ? heads_of_kv - pack : kHeads;
    length = p.context_lens[seq];
    num_splits = (length + kAttentionSplit - 1) / kAttentionSplit;
  }
};

__device__ __forceinline__ uint4 BitsOf(const float (&x)[4]) {
  return {ptx::BitsOfFloat(x[0]), ptx::BitsOfFloat(x[1]), ptx::BitsOfFloat(x[2]),
          ptx::BitsOfFloat(x[3])};
}
__device__ __forceinline__ void FloatsOf(uint4 bits, float (&x)[4]) {
  x[0] = ptx::FloatOfBits(bits.x);
  x[1] = ptx::FloatOfBits(bits.y);
  x[2] = ptx::FloatOfBits(bits.z);
  x[3] = ptx::FloatOfBits(bits.w);
}

// Starts copying q of the block's heads; heads past the group's become zeros.
template <int kDim>
__device__ __forceinline__ void CopyQuery(const DecodeAttention& p, const Place& at, uint16_t* q) {
  constexpr int kChunks = kDim / 8;
  const int head = static_cast<int>(threadIdx.x) / kChunks, chunk = threadIdx.x % kChunks;
  if (head >= kHeads) return;
  const bool inside = head < at.num_heads;
  const int64_t from = static_cast<int64_t>(at.seq) * p.q_stride +
                       (inside ? at.first_head + head : 0) * kDim + chunk * 8;
  ptx::CopyAsync16(ptx::SharedAddress(q + ChunkOf<kDim>(head, chunk)),
                   static_cast<const uint16_t*>(p.q) + from, inside ? 16 : 0);
}

// Each warp scores its 16 positions of a tile, and every warp takes the scores of all 64: from here
// on a warp holds what one of prefill's does.
template <class Half, class Codes, int kDim>
__device__ __forceinline__ void ScoreTile(Shared<Codes, kDim>& shared, const Tile<kDim>& tile,
                                          int left, float scale,
                                          const uint32_t (&q)[kDim / 32][1][2][2],
                                          float (&scores)[kSteps][1][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp * 16;
  float mine[1][4] = {};
#pragma unroll
  for (int part = 0; part < kDim / 32; ++part)
    Score<Half, kDim, 1>(tile.k, first, part, q[part], mine);
  const int visible[2] = {left - first, left - first};
  Mask<false>(visible, scale, nullptr, mine[0]);
  ptx::StoreShared16(ptx::SharedAddress(shared.told.scores[warp][lane]), BitsOf(mine[0]));
  ptx::SyncThreads();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    FloatsOf(ptx::LoadShared16(ptx::SharedAddress(shared.told.scores[step][lane])),
             scores[step][0]);
  }
}

// Of 8-bit codes, where instructions are short: each warp scores its 16 positions and makes their
// weights, too, relative to the largest score of all 64, so that nobody makes those of others.
// Every warp takes the sums of all. The same numbers as Weigh's, in the same order.
template <class Half, class Codes, int kDim>
__device__ __forceinline__ void WeighTile(Shared<Codes, kDim>& shared, const CodeTile<kDim>& tile,
                                          int left, float scale,
                                          const uint32_t (&q)[kDim / 32][1][2][2],
                                          Running<1, kRows<kDim>>& run) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp * 16;
  float mine[1][4] = {};
#pragma unroll
  for (int part = 0; part < kDim / 32; ++part)
    ScoreCodes<Half, Codes, kDim>(tile.k, first, part, q[part][0], mine[0]);
  const int visible[2] = {left - first, left - first};
  Mask<true>(visible, scale, ScalesOf<Codes>(tile, 0) + first, mine[0]);
  float tops[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    tops[i] = ptx::Max(mine[0][i], mine[0][i + 2]);
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2)
      tops[i] = ptx::Max(tops[i], ptx::ShuffleXor(tops[i], lanes));
  }
  if (lane < kHeads / 2) {
    ptx::StoreShared8(ptx::SharedAddress(shared.told.tops[warp][lane]),
                      {ptx::BitsOfFloat(tops[0]), ptx::BitsOfFloat(tops[1])});
  }
  ptx::SyncThreads();
#pragma unroll
  for (int other = 0; other < kWarps; ++other) {
    const uint2 top =
        ptx::LoadShared8(ptx::SharedAddress(shared.told.tops[other][lane % (kHeads / 2)]));
    tops[0] = ptx::Max(tops[0], ptx::FloatOfBits(top.x));
    tops[1] = ptx::Max(tops[1], ptx::FloatOfBits(top.y));
  }
  float shrink[2];
  run.Raise(tops, shrink);
#pragma unroll
  for (int i = 0; i < 4; ++i) mine[0][i] = ptx::Exp2(mine[0][i] - BaseOf(run.max[0][i % 2]));
  ptx::StoreShared8(
      ptx::SharedAddress(shared.told.sums[warp][lane]),
      {ptx::BitsOfFloat(mine[0][0] + mine[0][2]), ptx::BitsOfFloat(mine[0][1] + mine[0][3])});
  ScaleWeights<1>(ScalesOf<Codes>(tile, 1) + first, 1 / UnitOf<Half, Codes>(), mine);
  uint32_t high[2], low[2];
  SplitWeights<Half>(mine[0], high, low);
  ptx::StoreShared16(ptx::SharedAddress(shared.told.weights[warp][lane]),
                     {high[0], high[1], low[0], low[1]});
  ptx::SyncThreads();
  float added[2] = {0, 0};
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const uint2 sums = ptx::LoadShared8(ptx::SharedAddress(shared.told.sums[step][lane]));
    added[0] += ptx::FloatOfBits(sums.x);
    added[1] += ptx::FloatOfBits(sums.y);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) run.sum[0][i] = ptx::Fma(run.sum[0][i], shrink[i], added[i]);
}

// Online softmax over the split's positions begin .. end - 1.
template <class Half, class Codes, int kDim>
__device__ __forceinline__ void Attend(const DecodeAttention& p, const Place& at,
                                       const Pages& pages, int begin, int end,
                                       Shared<Codes, kDim>& shared, Running<1, kRows<kDim>>& run) {
  auto& tiles = shared.tiles;
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) FindRows(pages, begin + stage * kTile, end, tiles);
  ptx::SyncThreads();
  CopyQuery<kDim>(p, at, shared.q);
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage)
    LoadTile<Codes, kDim, kThreads>(pages, begin + stage * kTile, end, tiles);
  ptx::WaitCopies<kStages - 1>();
  ptx::SyncThreads();
  if constexpr (Codes::kScaled) {
    InterleaveQuery<kDim, kThreads>(shared.q, kHeads);
    ptx::SyncThreads();
  }
  uint32_t q[kDim / 32][1][2][2];
#pragma unroll
  for (int part = 0; part < kDim / 32; ++part) LoadQuery<kDim>(shared.q, 0, part, q[part][0]);
  const float scale = p.scale * kLog2E / UnpackedUnitOf<Half, Codes>();
  run.Clear();
  for (int first = begin; first < end; first += kTile) {
    const auto& tile = TakeTile<Half, Codes, kDim, kThreads>(pages, first, end, tiles);
    if constexpr (Codes::kScaled) {
      WeighTile<Half, Codes, kDim>(shared, tile, end - first, scale, q, run);
      const uint32_t weights = ptx::SharedAddress(shared.told.weights[0][threadIdx.x % 32]);
      if (FirstDim<kDim>() < kDim)
        AddCodes<Half, Codes, kDim>(tile.v, FirstDim<kDim>(), weights, run.out[0]);
    } else {
      float scores[kSteps][1][4];
      ScoreTile<Half, Codes, kDim>(shared, tile, end - first, scale, q, scores);
      run.Weigh(scores);
#pragma unroll
      for (int step = 0; step < kSteps && FirstDim<kDim>() < kDim; ++step)
        AddValues<Half, kDim, kRows<kDim>, 1>(tile.v, step * 16, FirstDim<kDim>(), scores[step],
                                              run.out);
    }
    ReturnTile<Codes, kDim, kThreads>(pages, first, end, tiles);
  }
  ptx::WaitCopies<0>();
  run.SumLanes();
  // Powers of two: exact. Weights carry 1 / UnitOf, as prefill's do.
  constexpr float kLeft = UnitOf<Half, Codes>() / UnpackedUnitOf<Half, Codes>();
  if constexpr (kLeft != 1) run.Multiply(kLeft);
}

template <int kDim>
__device__ __forceinline__ void Keep(const Running<1, kRows<kDim>>& run, Partial<kDim>& partial) {
  const int lane = threadIdx.x % 32, first = FirstDim<kDim>() / 16;
#pragma unroll
  for (int m = 0; m < kRows<kDim>; ++m) {
    if (first < kDim / 16) ptx::StoreGlobal16(partial.out[first + m][lane], BitsOf(run.out[0][m]));
  }
  if (threadIdx.x < 4) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      partial.max[lane * 2 + i] = run.max[0][i];
      partial.sum[lane * 2 + i] = run.sum[0][i];
    }
  }
}

template <int kDim>
__device__ __forceinline__ void Recall(const Partial<kDim>& partial, Running<1, kRows<kDim>>& run) {
  const int lane = threadIdx.x % 32, first = FirstDim<kDim>() / 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    run.max[0][i] = partial.max[lane % 4 * 2 + i];
    run.sum[0][i] = partial.sum[lane % 4 * 2 + i];
  }
#pragma unroll
  for (int m = 0; m < kRows<kDim>; ++m) {
    FloatsOf(ptx::LoadGlobal16(partial.out[first + m][lane]), run.out[0][m]);
  }
}

// True for the split of its row that arrives last.
__device__ __forceinline__ bool IsLast(const DecodeAttention& p, const Place& at,
                                       uint32_t& is_last) {
  auto* counter = static_cast<uint32_t*>(p.workspace) + at.seq * gridDim.y + at.group;
  ptx::SyncThreads();
  if (threadIdx.x == 0) {
    ptx::Fence();
    is_last = ptx::AtomicAdd(counter, 1) == static_cast<uint32_t>(at.num_splits) - 1;
    ptx::Fence();
    if (is_last != 0) *counter = 0;
  }
  ptx::SyncThreads();
  return is_last != 0;
}

// grid: (splits of the longest row, kv heads x packs of 8 heads, sequences)
template <class Half, class Codes, int kDim>
__global__ void __launch_bounds__(kThreads, Codes::kScaled ? 5 : 3)
    DecodeKernel(const DecodeAttention p, uint8_t* partials) {
  auto& shared = SharedMemory<Shared<Codes, kDim>>();
  const Place at(p);
  if (at.split >= at.num_splits) return;
  const Pages pages{static_cast<const uint8_t*>(p.k),
                    static_cast<const uint8_t*>(p.v),
                    p.block_table + static_cast<int64_t>(at.seq) * p.max_blocks,
                    p.block_size,
                    p.num_kv_heads,
                    at.kv_head};
  const int begin = at.split * kAttentionSplit;
  const int end = begin + kAttentionSplit < at.length ? begin + kAttentionSplit : at.length;
  Running<1, kRows<kDim>> run;
  Attend<Half, Codes, kDim>(p, at, pages, begin, end, shared, run);
  if (at.num_splits > 1) {
    auto* all = reinterpret_cast<Partial<kDim>*>(partials) +
                (static_cast<int64_t>(at.seq) * gridDim.y + at.group) * gridDim.x;
    Keep<kDim>(run, all[at.split]);
    if (!IsLast(p, at, shared.is_last)) return;
    if (FirstDim<kDim>() >= kDim) return;
    run.Clear();
    for (int split = 0; split < at.num_splits; ++split) {
      Running<1, kRows<kDim>> part;
      Recall<kDim>(all[split], part);
      run.Fold(part);
    }
  }
  if (FirstDim<kDim>() >= kDim) return;
  const int head = static_cast<int>(threadIdx.x) % 32 / 4;
  uint16_t* to = nullptr;
  if (head < at.num_heads) {
    to = static_cast<uint16_t*>(p.out) + static_cast<int64_t>(at.seq) * p.out_stride +
         (at.first_head + head) * kDim;
  }
  run.template Store<Half, Codes::kScaled>(0, FirstDim<kDim>(), to);
}

// --- host

int32_t Packs(const DecodeAttention& call) {
  return call.num_kv_heads * ((call.num_heads / call.num_kv_heads + kHeads - 1) / kHeads);
}
int32_t Splits(const DecodeAttention& call) {
  return (call.max_context + kAttentionSplit - 1) / kAttentionSplit;
}

template <class Half, class Codes, int kDim>
cudaError_t Start(const DecodeAttention& call, cudaStream_t stream) {
  const dim3 grid(static_cast<uint32_t>(Splits(call)), static_cast<uint32_t>(Packs(call)),
                  static_cast<uint32_t>(call.num_seqs));
  return Launch(DecodeKernel<Half, Codes, kDim>,
                {grid, dim3(kThreads), sizeof(Shared<Codes, kDim>), stream}, call,
                static_cast<uint8_t*>(call.workspace) + DecodeCounterBytes(call));
}

template <class Half, class Codes>
cudaError_t StartForDim(const DecodeAttention& call, cudaStream_t stream) {
  if (call.head_dim == 128) return Start<Half, Codes, 128>(call, stream);
  return call.head_dim == 64 ? Start<Half, Codes, 64>(call, stream)
                             : Start<Half, Codes, 32>(call, stream);
}

template <class Codes>
cudaError_t StartDecode(const DecodeAttention& call, cudaStream_t stream) {
  return call.dtype == DType::kBf16 ? StartForDim<Bf16, Codes>(call, stream)
                                    : StartForDim<F16, Codes>(call, stream);
}

}  // namespace
}  // namespace nibble::cuda

#include <cstdint>

#include "kernels/cuda/decode_attention.h"
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kWarps = 4;
constexpr int kTile = 64;  // positions in a stage, 16 a warp
constexpr int kStages = 2;
constexpr int kHeads = 8;  // columns of an mma
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kNever = -__builtin_inff();

template <int kDim>
struct Shared {
  uint16_t k[kStages][kTile * kDim];
  uint16_t v[kStages][kTile * kDim];
  int32_t
      blocks[kDecodeSplit];  // of the cache, that the split's positions lie in, from its first on
};

// The results of the warps, in the memory of the stages once those are done.
template <int kDim>
struct Merge {
  float out[kWarps][kHeads][kDim + 4];  // 4 more so that lanes hit different banks
  float max[kWarps][kHeads];
  float sum[kWarps][kHeads];
  uint32_t is_last;
};

// What a split leaves in the workspace.
template <int kDim>
struct Partial {
  float out[kHeads][kDim];
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
    num_splits = (length + kDecodeSplit - 1) / kDecodeSplit;
  }
};

// Rows of 16-byte chunks; chunk c of row r lies at c ^ (r % 8), so that ldmatrix meets every bank
// once.
template <int kDim>
__device__ __forceinline__ int ChunkOf(int row, int chunk) {
  return row * kDim + (chunk ^ (row % 8)) * 8;
}

// Positions first .. first + 63 of k and v; those past the length become zeros.
template <int kDim>
__device__ __forceinline__ void LoadTile(const DecodeAttention& p, const Place& at,
                                         Shared<kDim>& shared, int stage, int first) {
  constexpr int kChunks = kDim / 8;
  const int first_block = at.split * kDecodeSplit / p.block_size;
#pragma unroll
  for (int i = 0; i < kTile * kChunks / kThreads; ++i) {
    const int row = (i * kThreads + static_cast<int>(threadIdx.x)) / kChunks,
              chunk = threadIdx.x % kChunks;
    const int position = first + row;
    const bool inside = position < at.length;
    int64_t from = 0;
    if (inside) {
      const int64_t head_block =
          int64_t{shared.blocks[position / p.block_size - first_block]} * p.num_kv_heads +
          at.kv_head;
      from = (head_block * p.block_size + position % p.block_size) * kDim + chunk * 8;
    }
    const int to = ChunkOf<kDim>(row, chunk), bytes = inside ? 16 : 0;
    ptx::CopyAsync16(ptx::SharedAddress(&shared.k[stage][to]),
                     static_cast<const uint16_t*>(p.k) + from, bytes);
    ptx::CopyAsync16(ptx::SharedAddress(&shared.v[stage][to]),
                     static_cast<const uint16_t*>(p.v) + from, bytes);
  }
}

// The split's part of the block table, read once.
template <int kDim>
__device__ __forceinline__ void LoadBlocks(const DecodeAttention& p, const Place& at, int begin,
                                           int end, Shared<kDim>& shared) {
  const int first = begin / p.block_size, count = (end - 1) / p.block_size - first + 1;
  const int32_t* table = p.block_table + static_cast<int64_t>(at.seq) * p.max_blocks + first;
  for (int i = threadIdx.x; i < count; i += kThreads) shared.blocks[i] = table[i];
  ptx::SyncThreads();
}

// q as the B operand, [dims, heads]; heads past the group's are zeros.
template <int kDim>
__device__ __forceinline__ void LoadQuery(const DecodeAttention& p, const Place& at,
                                          uint32_t (&q)[kDim / 16][2]) {
  const int lane = threadIdx.x % 32, head = lane / 4;
  const auto* row = static_cast<const uint16_t*>(p.q) + static_cast<int64_t>(at.seq) * p.q_stride +
                    (at.first_head + head) * kDim + lane % 4 * 2;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      q[step][i] =
          head < at.num_heads ? *reinterpret_cast<const uint32_t*>(row + step * 16 + i * 8) : 0;
    }
  }
}

// Running results of a warp: of heads 2t and 2t + 1, with t = lane % 4.
template <int kDim>
struct Running {
  float max[2] = {kNever, kNever};
  float sum[2] = {};             // this lane's positions only
  float out[kDim / 16][4] = {};  // [16 dims, 8 heads] of mma accumulators
};

__device__ __forceinline__ float MaxOfPositions(float x) {
#pragma unroll
  for (int lanes = 4; lanes < 32; lanes *= 2) {
    const float other = ptx::ShuffleXor(x, lanes);
    x = other > x ? other : x;
  }
  return x;
}

// Scores of 16 positions, [16, 8 heads], in units of log2; -infinity past the length.
template <class Half, int kDim>
__device__ __forceinline__ void Score(const uint16_t* k, int first_row, int positions_left,
                                      float scale, const uint32_t (&q)[kDim / 16][2],
                                      float (&scores)[4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    uint32_t a[4];
    const int row = first_row + lane % 16, chunk = step * 2 + lane / 16;
    ptx::LoadMatrix4(a, ptx::SharedAddress(k + ChunkOf<kDim>(row, chunk)));
    Half::Mma(scores, a, q[step]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    scores[i] = lane / 4 + i / 2 * 8 < positions_left ? scores[i] * scale : kNever;
}

// out += v^T * weights for 16 positions, with the weights [16, 8 heads] as two 16-bit halves.
template <class Half, int kDim>
__device__ __forceinline__ void AddValues(const uint16_t* v, int first_row,
                                          const float (&weights)[4], float (&out)[kDim / 16][4]) {
  const int lane = threadIdx.x % 32;
  uint32_t high[2], low[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float a = weights[2 * i], b = weights[2 * i + 1];
    const uint32_t pair = Half::Pack(a, b);
    high[i] = ptx::TransposeMatrix(pair);
    low[i] = ptx::TransposeMatrix(Half::Pack(a - Half::Low(pair), b - Half::High(pair)));
  }
#pragma unroll
  for (int dims = 0; dims < kDim / 16; ++dims) {
    uint32_t a[4];
    const int row = first_row + lane / 16 * 8 + lane % 8, chunk = dims * 2 + lane / 8 % 2;
    ptx::LoadMatrix4Transposed(a, ptx::SharedAddress(v + ChunkOf<kDim>(row, chunk)));
    Half::Mma(out[dims], a, high);
    Half::Mma(out[dims], a, low);
  }
}

// This warp's 16 positions of a tile.
template <class Half, int kDim>
__device__ __forceinline__ void AttendTile(const Shared<kDim>& shared, int stage,
                                           int positions_left, float scale,
                                           const uint32_t (&q)[kDim / 16][2], Running<kDim>& run) {
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16;
  positions_left -= first_row;
  if (positions_left <= 0) return;
  float scores[4] = {};
  Score<Half, kDim>(shared.k[stage], first_row, positions_left, scale, q, scores);
  float shrink[2];
#pragma unroll
  for (int head = 0; head < 2; ++head) {
    const float tile_max =
        MaxOfPositions(scores[head] > scores[head + 2] ? scores[head] : scores[head + 2]);
    const float max = tile_max > run.max[head] ? tile_max : run.max[head];
    shrink[head] = ptx::Exp2(run.max[head] - max);
    run.max[head] = max;
    scores[head] = ptx::Exp2(scores[head] - max);
    scores[head + 2] = ptx::Exp2(scores[head + 2] - max);
    run.sum[head] = run.sum[head] * shrink[head] + (scores[head] + scores[head + 2]);
  }
#pragma unroll
  for (int dims = 0; dims < kDim / 16; ++dims) {
#pragma unroll
    for (int i = 0; i < 4; ++i) run.out[dims][i] *= shrink[i % 2];
  }
  AddValues<Half, kDim>(shared.v[stage], first_row, scores, run.out);
}

template <int kDim>
__device__ __forceinline__ void KeepWarp(Merge<kDim>& merge, Running<kDim>& run) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) run.sum[i] += ptx::ShuffleXor(run.sum[i], lanes);
    if (lane < 4) {
      merge.max[warp][lane * 2 + i] = run.max[i];
      merge.sum[warp][lane * 2 + i] = run.sum[i];
    }
  }
#pragma unroll
  for (int dims = 0; dims < kDim / 16; ++dims) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      merge.out[warp][lane % 4 * 2 + i % 2][dims * 16 + lane / 4 + i / 2 * 8] = run.out[dims][i];
    }
  }
}

struct Merged {
  float max = kNever, sum = 0, out = 0;

  __device__ __forceinline__ void Add(float other_max, float other_sum, float other_out) {
    if (other_max == kNever) return;  // a warp without positions
    const float top = other_max > max ? other_max : max;
    const float mine = ptx::Exp2(max - top), others = ptx::Exp2(other_max - top);
    max = top;
    sum = sum * mine + other_sum * others;
    out = out * mine + other_out * others;
  }
};

template <class Half, int kDim>
__device__ __forceinline__ void Store(const DecodeAttention& p, const Place& at, int head, int dim,
                                      const Merged& merged) {
  if (head >= at.num_heads) return;
  auto* out = static_cast<uint16_t*>(p.out) + static_cast<int64_t>(at.seq) * p.out_stride;
  out[(at.first_head + head) * kDim + dim] =
      static_cast<uint16_t>(Half::Pack(merged.out / merged.sum, 0.0f));
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
template <class Half, int kDim>
__global__ void __launch_bounds__(kThreads, 3)
    DecodeKernel(const DecodeAttention p, uint8_t* partials) {
  auto& shared = SharedMemory<Shared<kDim>>();
  auto& merge = SharedMemory<Merge<kDim>>();
  const Place at(p);
  if (at.split >= at.num_splits) return;
  const int begin = at.split * kDecodeSplit;
  const int end = begin + kDecodeSplit < at.length ? begin + kDecodeSplit : at.length;
  LoadBlocks<kDim>(p, at, begin, end, shared);
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    if (begin + stage * kTile < end) LoadTile<kDim>(p, at, shared, stage, begin + stage * kTile);
    ptx::CommitCopies();
  }
  uint32_t q[kDim / 16][2];
  LoadQuery<kDim>(p, at, q);
  Running<kDim> run;
  for (int first = begin, stage = 0; first < end; first += kTile, stage ^= 1) {
    ptx::WaitCopies<kStages - 1>();
    ptx::SyncThreads();
    AttendTile<Half, kDim>(shared, stage, end - first, p.scale * kLog2E, q, run);
    ptx::SyncThreads();  // nobody reads the stage any more
    const int next = first + kStages * kTile;
    if (next < end) LoadTile<kDim>(p, at, shared, stage, next);
    ptx::CommitCopies();
  }
  ptx::WaitCopies<0>();
  KeepWarp<kDim>(merge, run);
  ptx::SyncThreads();
  auto* all = reinterpret_cast<Partial<kDim>*>(partials) +
              (static_cast<int64_t>(at.seq) * gridDim.y + at.group) * gridDim.x;
  for (int i = threadIdx.x; i < kHeads * kDim; i += kThreads) {
    const int head = i / kDim, dim = i % kDim;
    Merged merged;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      merged.Add(merge.max[warp][head], merge.sum[warp][head], merge.out[warp][head][dim]);
    }
    if (at.num_splits == 1) {
      Store<Half, kDim>(p, at, head, dim, merged);
      continue;
    }
    all[at.split].out[head][dim] = merged.out;
    if (dim == 0) all[at.split].max[head] = merged.max;
    if (dim == 0) all[at.split].sum[head] = merged.sum;
  }
  if (at.num_splits == 1 || !IsLast(p, at, merge.is_last)) return;
  for (int i = threadIdx.x; i < kHeads * kDim; i += kThreads) {
    const int head = i / kDim, dim = i % kDim;
    Merged merged;
    for (int split = 0; split < at.num_splits; ++split) {
      merged.Add(all[split].max[head], all[split].sum[head], all[split].out[head][dim]);
    }
    Store<Half, kDim>(p, at, head, dim, merged);
  }
}

// --- host

int32_t Packs(const DecodeAttention& call) {
  return call.num_kv_heads * ((call.num_heads / call.num_kv_heads + kHeads - 1) / kHeads);
}
int32_t Splits(const DecodeAttention& call) {
  return (call.max_context + kDecodeSplit - 1) / kDecodeSplit;
}
bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <class Half, int kDim>
cudaError_t Start(const DecodeAttention& call, cudaStream_t stream) {
  const dim3 grid(static_cast<uint32_t>(Splits(call)), static_cast<uint32_t>(Packs(call)),
                  static_cast<uint32_t>(call.num_seqs));
  constexpr size_t kShared =
      sizeof(Shared<kDim>) > sizeof(Merge<kDim>) ? sizeof(Shared<kDim>) : sizeof(Merge<kDim>);
  return Launch(DecodeKernel<Half, kDim>, {grid, dim3(kThreads), kShared, stream}, call,
                static_cast<uint8_t*>(call.workspace) + DecodeCounterBytes(call));
}

template <class Half>
cudaError_t StartForDim(const DecodeAttention& call, cudaStream_t stream) {
  return call.head_dim == 128 ? Start<Half, 128>(call, stream) : Start<Half, 64>(call, stream);
}

}  // namespace

int64_t DecodeCounterBytes(const DecodeAttention& call) {
  return (int64_t{call.num_seqs} * Packs(call) * 4 + 127) / 128 * 128;
}

int64_t DecodeWorkspaceBytes(const DecodeAttention& call) {
  const int64_t blocks = int64_t{call.num_seqs} * Packs(call) * Splits(call);
  return DecodeCounterBytes(call) + blocks * kHeads * (call.head_dim + 2) * 4;
}

cudaError_t LaunchDecodeAttention(const DecodeAttention& call, cudaStream_t stream) {
  const bool has_shape = call.num_seqs > 0 && call.num_kv_heads > 0 && call.num_heads > 0 &&
                         call.num_heads % call.num_kv_heads == 0 && call.block_size > 0 &&
                         call.max_context > 0 && (call.head_dim == 64 || call.head_dim == 128);
  const bool is_aligned = IsAligned(call.k) && IsAligned(call.v) && IsAligned(call.workspace) &&
                          reinterpret_cast<uintptr_t>(call.q) % 4 == 0 && call.q_stride % 2 == 0;
  if (!has_shape || !is_aligned || call.workspace == nullptr) return cudaErrorInvalidValue;
  if (call.dtype == DType::kBf16) return StartForDim<Bf16>(call, stream);
  if (call.dtype == DType::kF16) return StartForDim<F16>(call, stream);
  return cudaErrorInvalidValue;
}

}  // namespace nibble::cuda

// How tiles of 64 cached positions come to shared memory as 16-bit values: copied as they are, or
// copied as 8-bit codes (cache_codes.cuh) and widened there once for the whole block.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/cache_codes.cuh"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/ptx.cuh"

namespace nibble::cuda {
namespace {

constexpr int kTile = 64;   // positions that one step of the online softmax takes
constexpr int kStages = 2;  // tiles whose copies are open at once

// Rows of 16-byte chunks; chunk c of row r lies at c ^ (r % 8), so that ldmatrix meets every bank
// once. Two rows of 32 dimensions share all banks: there it is r / 2 that is mixed in. In elements.
template <int kDim>
__device__ __forceinline__ int ChunkOf(int row, int chunk) {
  const int mixed = kDim == 32 ? row / 2 % 4 : row % 8;
  return row * kDim + (chunk ^ mixed) * 8;
}

// One kv head of one sequence in the paged cache.
struct Pages {
  const uint8_t* k;
  const uint8_t* v;
  const int32_t* table;  // the sequence's row of the block table
  int block_size, num_kv_heads, kv_head;
};

// A tile as the products read it, rows by ChunkOf.
template <int kDim>
struct Tile {
  uint16_t k[kTile * kDim];
  uint16_t v[kTile * kDim];
};
template <int kDim>
struct CodeTile {
  uint8_t k[kTile * kDim];
  uint8_t v[kTile * kDim];
  float scales[2 * kTile];  // of k, then of v
};
template <int kDim>
struct ScaledTile : Tile<kDim> {
  float scales[2 * kTile];
};

// Where the rows of a tile's positions are: in which head's block, and which of its rows.
struct Rows {
  uint32_t head_block[kTile];
  uint32_t row[kTile];
};

// The tiles of a block in shared memory.
template <class Codes, int kDim>
struct Tiles {
  using Stage = std::conditional_t<Codes::kScaled, CodeTile<kDim>, Tile<kDim>>;
  struct None {};
  Stage stages[kStages];
  std::conditional_t<Codes::kScaled, ScaledTile<kDim>, None> wide;
  Rows rows[kStages];  // of the tiles whose copies are started next
};

// The scales of a tile's k (0) or v (1), where it has some.
template <class Codes, int kDim>
__device__ __forceinline__ const float* ScalesOf(const Tiles<Codes, kDim>& tiles, int which) {
  if constexpr (Codes::kScaled) {
    return tiles.wide.scales + which * kTile;
  } else {
    return nullptr;
  }
}

// Looks up the rows of the tile at `first`, some barrier before its LoadTile; past the end it is
// whatever a copy of no bytes may name.
__device__ __forceinline__ void FindRows(const Pages& pages, int first, int end,
                                         Rows (&rows)[kStages]) {
  const int i = static_cast<int>(threadIdx.x), position = first + i;
  if (i >= kTile) return;
  const bool inside = position < end;
  const int64_t block = inside ? pages.table[position / pages.block_size] : 0;
  Rows& of_tile = rows[first / kTile % kStages];
  of_tile.head_block[i] =
      inside ? static_cast<uint32_t>(block * pages.num_kv_heads + pages.kv_head) : 0;
  of_tile.row[i] = static_cast<uint32_t>(position % pages.block_size);
}

// Starts copying positions first .. first + 63 of k and v; those from `end` on become zeros.
// Closes a group of copies, an empty one past the end.
template <class Codes, int kDim, int kThreads>
__device__ __forceinline__ void LoadTile(const Pages& pages, int first, int end,
                                         Tiles<Codes, kDim>& tiles) {
  constexpr int kBytes = Codes::kScaled ? 1 : 2;
  constexpr int kChunks = kDim * kBytes / 16;
  constexpr int kRowsAtOnce = kThreads / kChunks < kTile ? kThreads / kChunks : kTile;
  static_assert(kRowsAtOnce % 8 == 0, "so that ChunkOf of the rows differs by a constant");
  const int64_t head_bytes = HeadBlockBytes<Codes::kScaled>(pages.block_size, kDim);
  const int thread = ptx::ThreadIndex(), chunk = thread % kChunks, first_row = thread / kChunks;
  const int slot = first / kTile % kStages;
  auto& stage = tiles.stages[slot];
  const Rows& rows = tiles.rows[slot];
  const int to = Codes::kScaled ? first_row * kDim + chunk * 16 : ChunkOf<kDim>(first_row, chunk);
  const uint32_t to_k = ptx::SharedAddress(&stage.k[to]), to_v = ptx::SharedAddress(&stage.v[to]);
#pragma unroll 1  // of 128 dimensions prefill has no register left
  for (int i = 0; i < kTile / kRowsAtOnce && first < end; ++i) {
    if (first_row >= kTile) break;  // more threads than the tile has chunks
    const int place = first_row + i * kRowsAtOnce;
    const bool inside = first + place < end;
    const int64_t from =
        rows.head_block[place] * head_bytes + rows.row[place] * (kDim * kBytes) + chunk * 16;
    constexpr uint32_t kStep = kRowsAtOnce * kDim * kBytes;
    ptx::CopyAsync16(to_k + i * kStep, pages.k + from, inside ? 16 : 0);
    ptx::CopyAsync16(to_v + i * kStep, pages.v + from, inside ? 16 : 0);
  }
  if constexpr (Codes::kScaled) {
    const int place = thread % kTile;
    if (thread < 2 * kTile && first < end) {
      const bool inside = first + place < end;
      const int64_t from = rows.head_block[place] * head_bytes + int64_t{pages.block_size} * kDim +
                           rows.row[place] * 4;
      ptx::CopyAsync4(ptx::SharedAddress(&stage.scales[thread]),
                      (thread < kTile ? pages.k : pages.v) + from, inside ? 4 : 0);
    }
  }
  ptx::CommitCopies();
}

// 16 codes a thread and turn.
template <class Half, class Codes, int kDim, int kThreads>
__device__ __forceinline__ void WidenRows(const uint8_t* codes, uint16_t* out) {
  constexpr int kChunks = kDim / 16;
#pragma unroll 1
  for (int i = threadIdx.x; i < kTile * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const uint4 v = ptx::LoadShared16(ptx::SharedAddress(codes + i * 16));
    uint32_t pairs[4][2];
    Codes::template Widen<Half>(v.x, pairs[0]);
    Codes::template Widen<Half>(v.y, pairs[1]);
    Codes::template Widen<Half>(v.z, pairs[2]);
    Codes::template Widen<Half>(v.w, pairs[3]);
    const uint4 halves[2] = {{pairs[0][0], pairs[0][1], pairs[1][0], pairs[1][1]},
                             {pairs[2][0], pairs[2][1], pairs[3][0], pairs[3][1]}};
    // Of 8 neighbours in a row of 128 dimensions four begin with their second half, so that they
    // meet different banks.
    const int turn = chunk / 4 % 2;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int half = j ^ turn;
      ptx::StoreShared16(ptx::SharedAddress(out + ChunkOf<kDim>(row, chunk * 2 + half)),
                         half == 0 ? halves[0] : halves[1]);
    }
  }
}

// Waits for the tile at `first` and returns it; for the whole block, with barriers. Where it has to
// be widened its stage is free afterwards, and the copies of the next but one are started.
template <class Half, class Codes, int kDim, int kThreads>
__device__ __forceinline__ const Tile<kDim>& TakeTile(const Pages& pages, int first, int end,
                                                      Tiles<Codes, kDim>& tiles) {
  ptx::WaitCopies<kStages - 1>();
  ptx::SyncThreads();
  const int next = first + kStages * kTile;
  FindRows(pages, next, end, tiles.rows);
  auto& stage = tiles.stages[first / kTile % kStages];
  if constexpr (Codes::kScaled) {
    WidenRows<Half, Codes, kDim, kThreads>(stage.k, tiles.wide.k);
    WidenRows<Half, Codes, kDim, kThreads>(stage.v, tiles.wide.v);
    if (threadIdx.x < 2 * kTile) tiles.wide.scales[threadIdx.x] = stage.scales[threadIdx.x];
    ptx::SyncThreads();
    LoadTile<Codes, kDim, kThreads>(pages, next, end, tiles);
    return tiles.wide;
  } else {
    return stage;
  }
}

// After the last read of what TakeTile returned; for the whole block.
template <class Codes, int kDim, int kThreads>
__device__ __forceinline__ void ReturnTile(const Pages& pages, int first, int end,
                                           Tiles<Codes, kDim>& tiles) {
  if constexpr (!Codes::kScaled) {
    ptx::SyncThreads();  // nobody reads the stage any more
    LoadTile<Codes, kDim, kThreads>(pages, first + kStages * kTile, end, tiles);
  }
}

}  // namespace
}  // namespace nibble::cuda

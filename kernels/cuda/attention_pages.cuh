// How tiles of 64 cached positions come to shared memory: copied as they are, or, where they are
// 8-bit codes (cache_codes.cuh) that several warps read, widened there once for the whole block.
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

// The same of rows of 8-bit codes, 16 of them a chunk. In bytes.
template <int kDim>
__device__ __forceinline__ int CodeChunkOf(int row, int chunk) {
  constexpr int kChunks = kDim / 16, kRowsOfBanks = 8 / kChunks;
  return row * kDim + (chunk ^ (row / kRowsOfBanks % kChunks)) * 16;
}

// One kv head of one sequence in the paged cache.
struct Pages {
  const uint8_t* k;
  const uint8_t* v;
  const int32_t* table;  // the sequence's row of the block table
  int block_size, num_kv_heads, kv_head;
};

// A tile as the products read it, rows by ChunkOf; by CodeChunkOf.
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

// Where the rows of a tile's positions are: in which head's block, and which of its rows. With
// kRowsAhead `place` is instead how many 16 bytes after the cache's beginning the row lies, in a
// cache of up to 64 GiB: where instructions are short, and registers are not.
struct Rows {
  uint32_t place[kTile];
  uint32_t row[kTile];
};
template <class Codes, bool kWiden>
inline constexpr bool kRowsAhead = Codes::kScaled && !kWiden;

// The tiles of a block in shared memory; kWiden: with room for one of codes as 16-bit values.
template <class Codes, int kDim, bool kWiden>
struct Tiles {
  static_assert(Codes::kScaled || !kWiden);
  using Stage = std::conditional_t<Codes::kScaled, CodeTile<kDim>, Tile<kDim>>;
  struct None {};
  Stage stages[kStages];
  std::conditional_t<kWiden, ScaledTile<kDim>, None> wide;
  Rows rows[kStages];  // of the tiles whose copies are started next
};

// The scales of a tile's k (0) or v (1), where it has some.
template <class Codes, class AnyTile>
__device__ __forceinline__ const float* ScalesOf(const AnyTile& tile, int which) {
  if constexpr (Codes::kScaled) {
    return tile.scales + which * kTile;
  } else {
    return nullptr;
  }
}

// Looks up the rows of the tile at `first`, some barrier before its LoadTile; past the end it is
// whatever a copy of no bytes may name.
template <class Codes, int kDim, bool kWiden>
__device__ __forceinline__ void FindRows(const Pages& pages, int first, int end,
                                         Tiles<Codes, kDim, kWiden>& tiles) {
  const int i = static_cast<int>(threadIdx.x), position = first + i;
  if (i >= kTile) return;
  const bool inside = position < end;
  Rows& rows = tiles.rows[first / kTile % kStages];
  if constexpr (kRowsAhead<Codes, kWiden>) {
    constexpr auto kPositionBytes = static_cast<uint32_t>(HeadBlockBytes<Codes::kScaled>(1, kDim));
    uint32_t chunk = 0, row = 0;
    if (inside) {
      const auto at = static_cast<uint32_t>(position);
      const auto size = static_cast<uint32_t>(pages.block_size);
      const uint32_t head_block = static_cast<uint32_t>(pages.table[at / size]) *
                                      static_cast<uint32_t>(pages.num_kv_heads) +
                                  static_cast<uint32_t>(pages.kv_head);
      row = at % size;
      chunk = head_block * (size * kPositionBytes / 16) + row * (kDim / 16);
    }
    rows.place[i] = chunk;
    rows.row[i] = row;
  } else {
    const int64_t block = inside ? pages.table[position / pages.block_size] : 0;
    rows.place[i] = inside ? static_cast<uint32_t>(block * pages.num_kv_heads + pages.kv_head) : 0;
    rows.row[i] = static_cast<uint32_t>(position % pages.block_size);
  }
}

// Starts copying positions first .. first + 63 of k and v; those from `end` on become zeros.
// Closes a group of copies, an empty one past the end.
template <class Codes, int kDim, int kThreads, bool kWiden>
__device__ __forceinline__ void LoadTile(const Pages& pages, int first, int end,
                                         Tiles<Codes, kDim, kWiden>& tiles) {
  constexpr int kBytes = Codes::kScaled ? 1 : 2;
  constexpr int kChunks = kDim * kBytes / 16;
  constexpr int kRowsAtOnce = kThreads / kChunks < kTile ? kThreads / kChunks : kTile;
  static_assert(kRowsAtOnce % 8 == 0, "so that ChunkOf of the rows differs by a constant");
  const int64_t head_bytes = HeadBlockBytes<Codes::kScaled>(pages.block_size, kDim);
  const int thread = ptx::ThreadIndex(), chunk = thread % kChunks, first_row = thread / kChunks;
  const int slot = first / kTile % kStages;
  auto& stage = tiles.stages[slot];
  const Rows& rows = tiles.rows[slot];
  const int to =
      Codes::kScaled ? CodeChunkOf<kDim>(first_row, chunk) : ChunkOf<kDim>(first_row, chunk);
  const uint32_t to_k = ptx::SharedAddress(&stage.k[to]), to_v = ptx::SharedAddress(&stage.v[to]);
#pragma unroll 1  // of 128 dimensions prefill has no register left
  for (int i = 0; i < kTile / kRowsAtOnce && first < end; ++i) {
    if (first_row >= kTile) break;  // more threads than the tile has chunks
    const int place = first_row + i * kRowsAtOnce;
    const bool inside = first + place < end;
    uint64_t from = 0;
    if constexpr (kRowsAhead<Codes, kWiden>) {
      from = uint64_t{rows.place[place] + static_cast<uint32_t>(chunk)} * 16;
    } else {
      from = rows.place[place] * head_bytes + rows.row[place] * (kDim * kBytes) + chunk * 16;
    }
    constexpr uint32_t kStep = kRowsAtOnce * kDim * kBytes;
    ptx::CopyAsync16(to_k + i * kStep, pages.k + from, inside ? 16 : 0);
    ptx::CopyAsync16(to_v + i * kStep, pages.v + from, inside ? 16 : 0);
  }
  if constexpr (Codes::kScaled) {
    const int place = thread % kTile;
    if (thread < 2 * kTile && first < end) {
      const bool inside = first + place < end;
      int64_t from = 0;
      if constexpr (kRowsAhead<Codes, kWiden>) {
        from = static_cast<int64_t>(rows.place[place]) * 16 + pages.block_size * kDim -
               static_cast<int64_t>(rows.row[place]) * (kDim - 4);
      } else {
        from =
            rows.place[place] * head_bytes + int64_t{pages.block_size} * kDim + rows.row[place] * 4;
      }
      ptx::CopyAsync4(ptx::SharedAddress(&stage.scales[thread]),
                      (thread < kTile ? pages.k : pages.v) + from, inside ? 4 : 0);
    }
  }
  ptx::CommitCopies();
}

// 16 codes a thread and turn; dimensions in the order of InterleaveQuery where kInterleaved.
template <class Half, class Codes, int kDim, int kThreads, bool kInterleaved>
__device__ __forceinline__ void WidenRows(const uint8_t* codes, uint16_t* out) {
  constexpr int kChunks = kDim / 16;
#pragma unroll 1
  for (int i = threadIdx.x; i < kTile * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const uint4 v = ptx::LoadShared16(ptx::SharedAddress(codes + CodeChunkOf<kDim>(row, chunk)));
    uint32_t p[4][2];
    Codes::template Widen<Half>(v.x, p[0]);
    Codes::template Widen<Half>(v.y, p[1]);
    Codes::template Widen<Half>(v.z, p[2]);
    Codes::template Widen<Half>(v.w, p[3]);
    const uint4 halves[2] = {kInterleaved ? uint4{p[0][0], p[1][0], p[2][0], p[3][0]}
                                          : uint4{p[0][0], p[0][1], p[1][0], p[1][1]},
                             kInterleaved ? uint4{p[0][1], p[1][1], p[2][1], p[3][1]}
                                          : uint4{p[2][0], p[2][1], p[3][0], p[3][1]}};
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
template <class Half, class Codes, int kDim, int kThreads, bool kWiden>
__device__ __forceinline__ const auto& TakeTile(const Pages& pages, int first, int end,
                                                Tiles<Codes, kDim, kWiden>& tiles) {
  ptx::WaitCopies<kStages - 1>();
  ptx::SyncThreads();
  const int next = first + kStages * kTile;
  FindRows(pages, next, end, tiles);
  auto& stage = tiles.stages[first / kTile % kStages];
  if constexpr (kWiden) {
    WidenRows<Half, Codes, kDim, kThreads, true>(stage.k, tiles.wide.k);
    WidenRows<Half, Codes, kDim, kThreads, false>(stage.v, tiles.wide.v);
    if (threadIdx.x < 2 * kTile) tiles.wide.scales[threadIdx.x] = stage.scales[threadIdx.x];
    ptx::SyncThreads();
    LoadTile<Codes, kDim, kThreads>(pages, next, end, tiles);
    return tiles.wide;
  } else {
    return stage;
  }
}

// After the last read of what TakeTile returned; for the whole block.
template <class Codes, int kDim, int kThreads, bool kWiden>
__device__ __forceinline__ void ReturnTile(const Pages& pages, int first, int end,
                                           Tiles<Codes, kDim, kWiden>& tiles) {
  if constexpr (!kWiden) {
    ptx::SyncThreads();  // nobody reads the stage any more
    LoadTile<Codes, kDim, kThreads>(pages, first + kStages * kTile, end, tiles);
  }
}

}  // namespace
}  // namespace nibble::cuda

#include <cstdint>

#include "kernels/cuda/code_values.cuh"
#include "kernels/cuda/dequantize_tiles.h"
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;

struct Table {
  float entries[16];
};

// What a kernel is compiled for: a lane's 16 bytes of codes are of two rows, 8 apart, and of
// kPieces x 8 columns of each, of which it has two in each piece.
template <class HalfType, TiledCodes kTheCodes>
struct Variant {
  using Half = HalfType;
  static constexpr TiledCodes kCodes = kTheCodes;
  static constexpr int kPieces = Is4Bit(kTheCodes) ? 8 : 4;
};

// Code `half` (0, 1) of the pair in register `i` of the mma along k that `step` counts.
template <class V>
__device__ __forceinline__ uint32_t CodeOf(const uint32_t (&words)[4], int step, int i, int half) {
  if constexpr (V::kPieces == 8) {
    return words[step] >> (4 * (i + 4 * half)) & 15;
  } else {
    return words[step * 2 + i / 2] >> (i % 2 * 16 + half * 8) & 0xFF;
  }
}

// The values of groups (scales, or offsets) of a lane's two rows.
__device__ __forceinline__ float2 OfGroups(const TiledLayout& layout, const uint8_t* values,
                                           int index) {
  if (layout.scales == TiledScales::kF32)
    return *reinterpret_cast<const float2*>(values + index * 4);
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(values + index * 2);
  return {F16::Low(pair), F16::High(pair)};
}

// Scales and offsets of a lane's two rows, for 16 columns.
struct Scales {
  float2 scale, offset;
};

__device__ __forceinline__ Scales ScalesOf(const DequantizeCall& p, const uint8_t* tile, int row,
                                           int tile_row, int tile_col) {
  const TiledLayout& layout = p.matrix.tiled;
  const uint8_t* values = tile + kTileCodeBytes;
  if (layout.scales == TiledScales::kRow) {
    const auto* rows = reinterpret_cast<const float*>(p.matrix.bytes + RowScalesAt(layout)) + row;
    return {{rows[0], rows[8]}, {}};
  }
  if (layout.scales == TiledScales::kBlock) {
    const float scale = *reinterpret_cast<const float*>(values);
    return {{scale, scale}, {}};
  }
  const int index = TileScaleIndex(tile_row, tile_col / layout.group);
  const float2 none = {};
  return {OfGroups(layout, values, index),
          layout.offsets ? OfGroups(layout, values + TileScaleBytes(layout), index) : none};
}

// Four lanes have a word each of four pieces; afterwards lane l has piece l, its words by lane.
__device__ __forceinline__ void ExchangePieces(uint32_t (&words)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & bit) != 0) continue;
      const bool upper = (lane & bit) != 0;
      const uint32_t given = upper ? words[i] : words[i + bit];
      const uint32_t taken = ptx::ShuffleXor(given, bit);
      if (upper) {
        words[i] = taken;
      } else {
        words[i + bit] = taken;
      }
    }
  }
}

// The two rows of a lane's codes as pairs of 16-bit values, [row][piece].
template <class V>
__device__ __forceinline__ void Decode(const DequantizeCall& p, const float* table,
                                       const uint8_t* tile, const uint32_t (&words)[4], int row,
                                       int tile_row, int tile_col,
                                       uint32_t (&pairs)[2][V::kPieces]) {
#pragma unroll
  for (int step = 0; step < V::kPieces / 2; ++step) {
    const Scales s = ScalesOf(p, tile, row, tile_row, tile_col + 16 * step);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float scale = i % 2 == 0 ? s.scale.x : s.scale.y;
      const float offset = i % 2 == 0 ? s.offset.x : s.offset.y;
      float v[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float code =
            OfCode(V::kCodes, p.matrix.tiled.zero, table, CodeOf<V>(words, step, i, half));
        v[half] = ptx::Multiply(scale, code) + offset;  // rounded twice, as on the CPU
      }
      pairs[i % 2][step * 2 + i / 2] = V::Half::Pack(v[0], v[1]);
    }
  }
}

// grid: (tiles of columns, tiles of the slab's rows)
template <class V>
__global__ void __launch_bounds__(kThreads) DequantizeTiles(const DequantizeCall p) {
  constexpr int kLoadCols = V::kPieces * 8, kChunks = kTileCodeBytes / 16;
  const TiledLayout& layout = p.matrix.tiled;
  float* const table = SharedMemory<Table>().entries;
  if constexpr (V::kCodes == TiledCodes::kLut4) {
    if (threadIdx.x < 16) table[threadIdx.x] = layout.table[threadIdx.x];
    ptx::SyncThreads();
  }
  const int first_row = p.first + static_cast<int>(blockIdx.y) * kTileRows;
  const int64_t tile_index =
      static_cast<int64_t>(first_row / kTileRows) * ColTiles(layout) + blockIdx.x;
  const uint8_t* tile = p.matrix.bytes + tile_index * TileBytes(layout);
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kChunks / kThreads; ++i) {
    const int chunk = i * kThreads + static_cast<int>(threadIdx.x), load = chunk / 32;
    const int tile_row = load / 2 * 16 + lane / 4, tile_col = load % 2 * kLoadCols;
    const uint4 loaded = ptx::LoadGlobal16(tile + chunk * 16);
    const uint32_t words[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
    uint32_t pairs[2][V::kPieces];
    Decode<V>(p, table, tile, words, first_row + tile_row, tile_row, tile_col, pairs);
#pragma unroll
    for (int piece = 0; piece < 2 * V::kPieces; piece += 4) {
      const int half = piece / V::kPieces, of_half = piece % V::kPieces;
      uint32_t four[4] = {pairs[half][of_half], pairs[half][of_half + 1], pairs[half][of_half + 2],
                          pairs[half][of_half + 3]};
      ExchangePieces(four);
      const int row = first_row + tile_row + 8 * half - p.first;
      const int col =
          static_cast<int>(blockIdx.x) * TileCols(V::kCodes) + tile_col + (of_half + lane % 4) * 8;
      auto* to = static_cast<uint16_t*>(p.out) + static_cast<int64_t>(row) * p.out_stride + col;
      const uint4 packed = {four[0], four[1], four[2], four[3]};
      if (row < p.rows && col < layout.cols) ptx::StoreGlobal16(to, packed);
    }
  }
}

using Kernel = void (*)(DequantizeCall);

template <class Half>
Kernel KernelFor(TiledCodes codes) {
  switch (codes) {
    case TiledCodes::kInt4:
      return DequantizeTiles<Variant<Half, TiledCodes::kInt4>>;
    case TiledCodes::kLut4:
      return DequantizeTiles<Variant<Half, TiledCodes::kLut4>>;
    case TiledCodes::kInt8:
      return DequantizeTiles<Variant<Half, TiledCodes::kInt8>>;
    case TiledCodes::kE4m3:
      return DequantizeTiles<Variant<Half, TiledCodes::kE4m3>>;
    case TiledCodes::kE5m2:
      break;
  }
  return DequantizeTiles<Variant<Half, TiledCodes::kE5m2>>;
}

}  // namespace

bool IsSlabOfTiles(const DequantizeCall& call) {
  return call.matrix.storage == Storage::kTiled && call.ids == nullptr &&
         call.first % kTileRows == 0;
}

cudaError_t LaunchDequantizeTiles(const DequantizeCall& call, cudaStream_t stream) {
  const TiledLayout& layout = call.matrix.tiled;
  const dim3 grid(static_cast<uint32_t>(ColTiles(layout)),
                  static_cast<uint32_t>((call.rows + kTileRows - 1) / kTileRows));
  return Launch(
      call.dtype == DType::kBf16 ? KernelFor<Bf16>(layout.codes) : KernelFor<F16>(layout.codes),
      {grid, dim3(kThreads), sizeof(Table), stream}, call);
}

}  // namespace nibble::cuda

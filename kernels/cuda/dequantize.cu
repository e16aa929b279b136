// Rows of a stored matrix as 16-bit floats.
#include <cstdint>

#include "kernels/cuda/code_values.cuh"
#include "kernels/cuda/dequantize_tiles.h"
#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kLaneCols = 8;  // a lane's columns: 16 bytes of the result

__device__ __forceinline__ uint32_t CodeOf(const TiledLayout& layout, const uint8_t* tile,
                                           int32_t row, int32_t col) {
  if (!Is4Bit(layout.codes)) return tile[ByteSlotOf(row, col)];
  const NibbleSlot slot = NibbleSlotOf(row, col);
  return reinterpret_cast<const uint32_t*>(tile)[slot.word] >> (4 * slot.nibble) & 15;
}

// An element of a tiled matrix; its scale and offset are read with it.
__device__ __forceinline__ float OfTile(const StoredMatrix& m, int32_t row, int32_t col) {
  const TiledLayout& layout = m.tiled;
  const int32_t tile_cols = TileCols(layout.codes);
  const int32_t tile_row = row % kTileRows, tile_col = col % tile_cols;
  const int64_t tile = static_cast<int64_t>(row / kTileRows) * ColTiles(layout) + col / tile_cols;
  const uint8_t* bytes = m.bytes + tile * TileBytes(layout);
  const float code =
      OfCode(layout.codes, layout.zero, layout.table, CodeOf(layout, bytes, tile_row, tile_col));
  const uint8_t* scales = bytes + kTileCodeBytes;
  if (layout.scales == TiledScales::kRow)
    return reinterpret_cast<const float*>(m.bytes + RowScalesAt(layout))[row] * code;
  if (layout.scales == TiledScales::kBlock) return *reinterpret_cast<const float*>(scales) * code;
  const int index = TileScaleIndex(tile_row, tile_col / layout.group);
  const auto value = [&](const uint8_t* values) {
    return layout.scales == TiledScales::kF32
               ? reinterpret_cast<const float*>(values)[index]
               : F16::ToFloat(reinterpret_cast<const uint16_t*>(values)[index]);
  };
  const float offset = layout.offsets ? value(scales + TileScaleBytes(layout)) : 0.0f;
  return ptx::Multiply(value(scales), code) + offset;  // rounded twice, as on the CPU
}

// The 8 codes from `at` on, whose scale is one.
__device__ __forceinline__ void OfCodes(const StoredMatrix& m, int32_t row, int32_t col, int64_t at,
                                        float (&v)[kLaneCols]) {
  const auto* words = reinterpret_cast<const uint32_t*>(m.bytes + at);
  const auto* scales = reinterpret_cast<const float*>(m.bytes + CodeScalesAt(m));
  const float scale =
      HasBlocks(m.kind)
          ? scales[static_cast<int64_t>(row / 128) * BlockScaleStride(m.cols) + col / 128]
          : scales[row];
  const bool is_int8 = m.kind == CodesShape::Kind::kInt8;
  const TiledCodes of_fp8 = IsE5m2(m.kind) ? TiledCodes::kE5m2 : TiledCodes::kE4m3;
  const TiledCodes codes = is_int8 ? TiledCodes::kInt8 : of_fp8;
#pragma unroll
  for (int i = 0; i < kLaneCols; ++i) {
    const uint32_t code = words[i / 4] >> (i % 4 * 8) & 0xFF;
    v[i] = scale * OfByte(codes, is_int8 ? code ^ 0x80u : code);
  }
}

__device__ __forceinline__ void Words(const uint4 v, uint32_t (&out)[4]) {
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}

// The 8 elements of `row` from `col` on.
template <Storage kStorage>
__device__ __forceinline__ void Load(const StoredMatrix& m, int32_t row, int32_t col,
                                     float (&v)[kLaneCols]) {
  const int64_t at = static_cast<int64_t>(row) * m.cols + col;
  if constexpr (kStorage == Storage::kTiled) {
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) v[i] = OfTile(m, row, col + i);
  } else if constexpr (kStorage == Storage::kCodes) {
    OfCodes(m, row, col, at, v);
  } else if constexpr (kStorage == Storage::kF32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[4];
      Words(ptx::LoadGlobal16(m.bytes + (at + half * 4) * 4), words);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[half * 4 + i] = ptx::FloatOfBits(words[i]);
    }
  } else {
    uint32_t words[4];
    Words(ptx::LoadGlobal16(m.bytes + at * 2), words);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = kStorage == Storage::kF16 ? F16::Low(words[i]) : Bf16::Low(words[i]);
      v[2 * i + 1] = kStorage == Storage::kF16 ? F16::High(words[i]) : Bf16::High(words[i]);
    }
  }
}

// grid: (rows, runs of columns)
template <class Half, Storage kStorage>
__global__ void __launch_bounds__(kThreads) Dequantize(const DequantizeCall p) {
  const int32_t r = static_cast<int32_t>(blockIdx.x);
  const int32_t col = static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x) * kLaneCols;
  if (col >= p.matrix.cols) return;
  int32_t row = p.ids != nullptr ? p.ids[r] : p.first + r;
  if (row < 0) row = p.drawn[-1 - row];
  float v[kLaneCols];
  Load<kStorage>(p.matrix, row, col, v);
  const uint4 packed = {Half::Pack(v[0], v[1]), Half::Pack(v[2], v[3]), Half::Pack(v[4], v[5]),
                        Half::Pack(v[6], v[7])};
  ptx::StoreGlobal16(static_cast<uint16_t*>(p.out) + static_cast<int64_t>(r) * p.out_stride + col,
                     packed);
}

using Kernel = void (*)(DequantizeCall);

template <class Half>
Kernel KernelFor(Storage storage) {
  switch (storage) {
    case Storage::kTiled:
      return Dequantize<Half, Storage::kTiled>;
    case Storage::kCodes:
      return Dequantize<Half, Storage::kCodes>;
    case Storage::kF16:
      return Dequantize<Half, Storage::kF16>;
    case Storage::kBf16:
      return Dequantize<Half, Storage::kBf16>;
    case Storage::kF32:
      break;
  }
  return Dequantize<Half, Storage::kF32>;
}

}  // namespace

cudaError_t LaunchDequantize(const DequantizeCall& call, cudaStream_t stream) {
  const StoredMatrix& m = call.matrix;
  const bool is_whole =
      call.rows > 0 && m.cols > 0 && m.cols % kLaneCols == 0 &&
      (m.storage != Storage::kTiled || IsTiled(m.tiled)) &&
      (call.ids != nullptr || (call.first >= 0 && call.rows <= m.rows - call.first));
  const bool is_aligned = reinterpret_cast<uintptr_t>(call.out) % 16 == 0 &&
                          reinterpret_cast<uintptr_t>(m.bytes) % 16 == 0 &&
                          call.out_stride % kLaneCols == 0;
  const bool known = call.dtype == DType::kBf16 || call.dtype == DType::kF16;
  if (!is_whole || !is_aligned || !known) return cudaErrorInvalidValue;
  if (IsSlabOfTiles(call)) return LaunchDequantizeTiles(call, stream);
  const int32_t runs = (m.cols + kThreads * kLaneCols - 1) / (kThreads * kLaneCols);
  const dim3 grid(static_cast<uint32_t>(call.rows), static_cast<uint32_t>(runs));
  return Launch(call.dtype == DType::kBf16 ? KernelFor<Bf16>(m.storage) : KernelFor<F16>(m.storage),
                {grid, dim3(kThreads), 0, stream}, call);
}

}  // namespace nibble::cuda

// Rows of a stored matrix as 16-bit floats.
#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 128, kLaneCols = 8;  // a lane's columns: 16 bytes of the result

// Of a group's 8 neighbours.
struct Affine {
  float scale, offset;
};

__device__ __forceinline__ Affine AffineOf(const StoredMatrix& m, int32_t row, int32_t col) {
  const auto* scales = reinterpret_cast<const float*>(m.bytes + ScalesAt(m));
  const int64_t index = static_cast<int64_t>(row / m.row_group) * GroupsOfRow(m) + col / m.group;
  const auto* offsets = reinterpret_cast<const float*>(m.bytes + OffsetsAt(m));
  return {scales[index], m.offsets ? offsets[index] : 0.0f};
}

// One 8-bit code's value, before its scale.
template <Storage kStorage>
__device__ __forceinline__ float OfByte(uint32_t code) {
  if constexpr (kStorage == Storage::kInt8) return static_cast<float>(static_cast<int8_t>(code));
  if constexpr (kStorage == Storage::kE5m2) return F16::ToFloat(static_cast<uint16_t>(code << 8));
  // The exponent's bias of an f16 is 8 larger.
  return 256.0f * F16::ToFloat(static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7F) << 7));
}

// A 4-bit element; its scale and offset are read with it.
__device__ __forceinline__ float OfNibble(const StoredMatrix& m, int32_t row, int32_t col) {
  const W4Layout& w4 = m.w4;
  const int64_t tile = static_cast<int64_t>(row / kW4TileRows) * W4ColTiles(w4) + col / kW4TileCols;
  const uint8_t* bytes = m.bytes + tile * W4TileBytes(w4);
  const W4NibbleSlot slot = W4SlotOf(row % kW4TileRows, col % kW4TileCols);
  const uint32_t word = reinterpret_cast<const uint32_t*>(bytes)[slot.word];
  const uint32_t code = word >> (4 * slot.nibble) & 15;
  const int index = W4ScaleIndex(row % kW4TileRows, col % kW4TileCols / w4.group);
  const uint8_t* scales = bytes + kW4NibbleBytes;
  const auto value = [&](const uint8_t* values) {
    return w4.f32_scales ? reinterpret_cast<const float*>(values)[index]
                         : F16::ToFloat(reinterpret_cast<const uint16_t*>(values)[index]);
  };
  const float scale = value(scales);
  if (w4.codes == W4Codes::kTable) return scale * w4.table[code];
  const float offset = w4.offsets ? value(scales + W4ScaleBytes(w4)) : 0.0f;
  return scale * static_cast<float>(static_cast<int>(code) - w4.zero) + offset;
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
  if constexpr (kStorage == Storage::kW4) {
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) v[i] = OfNibble(m, row, col + i);
  } else if constexpr (kStorage == Storage::kF32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[4];
      Words(ptx::LoadGlobal16(m.bytes + (at + half * 4) * 4), words);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[half * 4 + i] = ptx::FloatOfBits(words[i]);
    }
  } else if constexpr (kStorage == Storage::kF16 || kStorage == Storage::kBf16) {
    uint32_t words[4];
    Words(ptx::LoadGlobal16(m.bytes + at * 2), words);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = kStorage == Storage::kF16 ? F16::Low(words[i]) : Bf16::Low(words[i]);
      v[2 * i + 1] = kStorage == Storage::kF16 ? F16::High(words[i]) : Bf16::High(words[i]);
    }
  } else {
    const auto* codes = reinterpret_cast<const uint32_t*>(m.bytes + at);
    const uint32_t words[2] = {codes[0], codes[1]};
    const Affine affine = AffineOf(m, row, col);
#pragma unroll
    for (int i = 0; i < kLaneCols; ++i) {
      const float code = OfByte<kStorage>(words[i / 4] >> (i % 4 * 8) & 0xFF);
      v[i] = affine.scale * code + affine.offset;
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
    case Storage::kW4:
      return Dequantize<Half, Storage::kW4>;
    case Storage::kInt8:
      return Dequantize<Half, Storage::kInt8>;
    case Storage::kE4m3:
      return Dequantize<Half, Storage::kE4m3>;
    case Storage::kE5m2:
      return Dequantize<Half, Storage::kE5m2>;
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
      (!HasScales(m.storage) || (m.group > 0 && m.group % kLaneCols == 0)) &&
      (call.ids != nullptr || (call.first >= 0 && call.rows <= m.rows - call.first));
  const bool is_aligned = reinterpret_cast<uintptr_t>(call.out) % 16 == 0 &&
                          reinterpret_cast<uintptr_t>(m.bytes) % 16 == 0 &&
                          call.out_stride % kLaneCols == 0;
  const bool known = call.dtype == DType::kBf16 || call.dtype == DType::kF16;
  if (!is_whole || !is_aligned || !known) return cudaErrorInvalidValue;
  const int32_t runs = (m.cols + kThreads * kLaneCols - 1) / (kThreads * kLaneCols);
  const dim3 grid(static_cast<uint32_t>(call.rows), static_cast<uint32_t>(runs));
  return Launch(call.dtype == DType::kBf16 ? KernelFor<Bf16>(m.storage) : KernelFor<F16>(m.storage),
                {grid, dim3(kThreads), 0, stream}, call);
}

}  // namespace nibble::cuda

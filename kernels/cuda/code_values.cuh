// What the codes of a tiled matrix stand for (tiled_layout.h), one at a time and before their
// scale: for kernels that need values. tiled_decode.cuh has them in pairs, for mma.
#pragma once

#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/tiled_layout.h"

namespace nibble::cuda {
namespace {

// An 8-bit code's value; int8 as code + 128.
__device__ __forceinline__ float OfByte(TiledCodes codes, uint32_t code) {
  if (codes == TiledCodes::kInt8) return static_cast<float>(static_cast<int>(code) - 128);
  if (codes == TiledCodes::kE5m2) return F16::ToFloat(static_cast<uint16_t>(code << 8));
  // The exponent's bias of an f16 is 8 larger.
  return 256.0f * F16::ToFloat(static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7F) << 7));
}

// Any code's; `table` has the 16 entries of kLut4.
__device__ __forceinline__ float OfCode(TiledCodes codes, int32_t zero, const float* table,
                                        uint32_t code) {
  if (codes == TiledCodes::kInt4) return static_cast<float>(static_cast<int>(code) - zero);
  if (codes == TiledCodes::kLut4) return table[code];
  return OfByte(codes, code);
}

}  // namespace
}  // namespace nibble::cuda

// The element types of GGUF tensors: the formulas that turn the blocks of the types this program
// reads into f32, and the little loads they are made of. Elements of a block are in row order; all
// fields are little-endian.
//
// Exactness: every product of a scale and a code is exact in f32, so one addition is all that
// rounds. The results are the formulas' bit for bit; the matrices of canonical.h give equal values
// (only the sign of a zero may differ).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

// out[n] = the elements of `bytes`. REQUIRES TypeInfo(type).readable, n a multiple of its
// block_elements, and `bytes` exactly n / block_elements * block_bytes long. About 1 ns an element.
void DequantizeBlocks(GgmlType type, absl::Span<const uint8_t> bytes, int64_t n, float* out);

// DATA_LOSS when a scale, an offset or an unquantized element is NaN or infinite: "block 7 has a
// scale or offset that is not finite". REQUIRES a readable type and whole blocks.
absl::Status CheckFinite(GgmlType type, absl::Span<const uint8_t> bytes);

// The 6-bit scale and min of sub-block j (0..7) of a Q4_K or Q5_K block, from its 12 packed bytes.
struct SixBitPair {
  uint8_t scale = 0;
  uint8_t min = 0;
};
SixBitPair UnpackSixBitPair(const uint8_t* scales, int j);

// Code and sub-scale of one element, or of 16 or 32, of the types that scatter them: element n
// (0..255) of a Q2_K (0..3) and of a Q3_K block (-4..3); scale j (0..15) of a Q3_K and (0..7) of an
// IQ4_XS block, both -32..31.
int Q2KCode(const uint8_t* block, int n);
int Q3KCode(const uint8_t* block, int n);
int Q3KScale(const uint8_t* block, int j);
int Iq4XsScale(const uint8_t* block, int j);

// The 16 values of a code of IQ4_NL, IQ4_XS, MXFP4 or NVFP4 (doubled in the last two, as their
// scales are halved); null for other types.
const int8_t* CodeValues(GgmlType type);

// 2^(exponent - 128): half of what an e8m0 byte stands for. REQUIRES exponent <= kMaxMxfp4Exponent,
// above which 12 of it is not finite.
float Mxfp4Scale(uint8_t exponent);
inline constexpr uint8_t kMaxMxfp4Exponent = 252;

// Half of what an unsigned e4m3 byte stands for; the NaN code counts as 0, as ggml has it.
float Nvfp4Scale(uint8_t code);

float LoadF16(const uint8_t* bytes);     // an f16, in f32
uint32_t LoadU32(const uint8_t* bytes);  // Q5's fifth bits: bit j belongs to element j

}  // namespace nibble

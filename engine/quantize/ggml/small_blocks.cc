// The types of 32 elements a block.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/quantize/ggml/block_encoders.h"
#include "engine/quantize/ggml/scale_search.h"
#include "engine/weights/ggml_types.h"
#include "kernels/half.h"

namespace nibble {
namespace {

constexpr int kBlock = 32;
constexpr Grid kQ4Grid = {.lo = -8, .hi = 7, .spread = 0.9f};
constexpr Grid kQ5Grid = {.lo = -16, .hi = 15, .spread = 0.9f};

// Element j < 16 goes to the low nibble of byte j, element j + 16 to its high one.
void PackNibbles(const uint8_t (&codes)[kBlock], uint8_t* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
  }
}

// Bit j belongs to element j.
void PackFifthBits(const uint8_t (&codes)[kBlock], uint8_t* out) {
  uint32_t bits = 0;
  for (int j = 0; j < kBlock; ++j) bits |= static_cast<uint32_t>(codes[j] >> 4 & 1) << j;
  std::memcpy(out, &bits, sizeof(bits));
}

// An f16 scale at out[0], and the codes that suit it: grid values minus the grid's lowest.
void EncodeSymmetric(const Grid& grid, const float* x, const float* w, uint8_t* out,
                     uint8_t (&codes)[kBlock]) {
  float values[kBlock];
  const float scale = StoreF16Scale(SearchScale(grid, x, w, kBlock, values), out);
  GridValues(grid, scale, x, w, kBlock, values);
  for (int j = 0; j < kBlock; ++j) codes[j] = static_cast<uint8_t>(values[j] - grid.lo);
}

// An f16 scale at out[0], an f16 min at out[2].
void EncodeAffine(float max_code, const float* x, const float* w, uint8_t* out,
                  uint8_t (&codes)[kBlock]) {
  const AffineFit fit = SearchAffine(max_code, false, x, w, kBlock);
  const float scale = StoreF16Scale(fit.scale, out);
  const float min = StoreF16Scale(fit.min, out + 2);
  float values[kBlock];
  AffineCodes(max_code, scale, min, x, w, kBlock, values);
  for (int j = 0; j < kBlock; ++j) codes[j] = static_cast<uint8_t>(values[j]);
}

float LargestMagnitude(const float* x) {
  float largest = 0;
  for (int j = 0; j < kBlock; ++j) largest = std::max(largest, std::fabs(x[j]));
  return largest;
}

}  // namespace

float StoreF16Scale(float value, uint8_t* out) {
  constexpr float kMaxF16 = 65504.0f;
  const uint16_t half = F32ToF16(std::clamp(value, -kMaxF16, kMaxF16));
  std::memcpy(out, &half, sizeof(half));
  return F16ToF32(half);
}

void EncodeQ4_0(const float* x, const float* w, uint8_t* out) {
  uint8_t codes[kBlock];
  EncodeSymmetric(kQ4Grid, x, w, out, codes);
  PackNibbles(codes, out + 2);
}

void EncodeQ4_1(const float* x, const float* w, uint8_t* out) {
  uint8_t codes[kBlock];
  EncodeAffine(15, x, w, out, codes);
  PackNibbles(codes, out + 4);
}

void EncodeQ5_0(const float* x, const float* w, uint8_t* out) {
  uint8_t codes[kBlock];
  EncodeSymmetric(kQ5Grid, x, w, out, codes);
  PackFifthBits(codes, out + 2);
  PackNibbles(codes, out + 6);
}

void EncodeQ5_1(const float* x, const float* w, uint8_t* out) {
  uint8_t codes[kBlock];
  EncodeAffine(31, x, w, out, codes);
  PackFifthBits(codes, out + 4);
  PackNibbles(codes, out + 8);
}

// No search: at eight bits the largest value's reach is worth more than a finer step.
void EncodeQ8_0(const float* x, const float* /*w*/, uint8_t* out) {
  const float scale = StoreF16Scale(LargestMagnitude(x) / 127.0f, out);
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  for (int j = 0; j < kBlock; ++j) {
    const float code = std::clamp(Nearest(inverse * x[j]), -127.0f, 127.0f);
    out[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(code));
  }
}

uint8_t Iq4Code(float value) {
  const int8_t* table = CodeValues(GgmlType::kIQ4_NL);
  return static_cast<uint8_t>(
      std::lower_bound(table, table + kMaxGridValues, static_cast<int8_t>(value)) - table);
}

void EncodeIq4Nl(const float* x, const float* w, uint8_t* out) {
  const int8_t* table = CodeValues(GgmlType::kIQ4_NL);
  const Grid grid = {.lo = -127, .hi = 113, .table = table, .spread = 9};
  float values[kBlock];
  const float scale = StoreF16Scale(SearchScale(grid, x, w, kBlock, values), out);
  GridValues(grid, scale, x, w, kBlock, values);
  uint8_t codes[kBlock];
  for (int j = 0; j < kBlock; ++j) codes[j] = Iq4Code(values[j]);
  PackNibbles(codes, out + 2);
}

// The OCP rule puts the largest value into the top binade of e2m1; the exponents beside it are
// tried as well, as clipping, or reaching less of the codes, may err less.
void EncodeMxfp4(const float* x, const float* w, uint8_t* out) {
  static constexpr int8_t kAscending[kMaxGridValues] = {-12, -8, -6, -4, -3, -2, -1, 0,
                                                        0,   1,  2,  3,  4,  6,  8,  12};
  const Grid grid = {.lo = -12, .hi = 12, .table = kAscending};
  const float largest = LargestMagnitude(x);
  std::memset(out, 0, 17);
  if (largest == 0) return;
  const int usual = std::ilogb(largest) - 2 + 127;
  float best_error = -1, best[kBlock] = {};
  for (const int exponent : {usual, usual + 1, usual - 1}) {
    if (exponent < 0 || exponent > kMaxMxfp4Exponent) continue;
    float values[kBlock];
    const float error =
        GridValues(grid, Mxfp4Scale(static_cast<uint8_t>(exponent)), x, w, kBlock, values);
    if (best_error >= 0 && error >= best_error) continue;
    best_error = error;
    out[0] = static_cast<uint8_t>(exponent);
    std::copy(values, values + kBlock, best);
  }
  uint8_t codes[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    const auto magnitude = static_cast<int8_t>(std::fabs(best[j]));
    const auto* at = std::lower_bound(kAscending + 8, kAscending + 16, magnitude);
    codes[j] = static_cast<uint8_t>((at - (kAscending + 8)) | (best[j] < 0 ? 8 : 0));
  }
  PackNibbles(codes, out + 1);
}

}  // namespace nibble

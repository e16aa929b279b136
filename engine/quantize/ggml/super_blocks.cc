// The types of 256 elements a block: sub-blocks whose scales are whole multiples of one f16.
//
// Both kinds go the same way: the best real scale of each sub-block; the f16 that the largest is a
// multiple of; then passes of (the multiples beside the nearest, each with the codes that suit it;
// the f16 that suits multiples and codes best, in closed form), of which the one that errs least
// stays.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/quantize/ggml/block_encoders.h"
#include "engine/quantize/ggml/scale_search.h"
#include "engine/weights/ggml_types.h"

namespace nibble {
namespace {

constexpr int kSuper = 256;
constexpr int kMaxSubBlocks = 16;
constexpr int kPasses = 4;

// ---- scale * multiple * grid value

struct SymmetricShape {
  Grid grid;
  int sub_block = 16;
  float lo = -32, hi = 31;  // of the multiples
};

struct SymmetricBlock {
  uint8_t scale[2] = {};  // f16
  float multiples[kMaxSubBlocks] = {};
  float values[kSuper] = {};
  float error = -1;
};

class SymmetricSearch {
 public:
  SymmetricSearch(const SymmetricShape& shape, const float* x, const float* w)
      : shape_(shape), x_(x), w_(w) {}

  SymmetricBlock Run() {
    const int num = kSuper / shape_.sub_block;
    float values[kSuper], extreme = 0;
    for (int j = 0; j < num; ++j) {
      const int at = j * shape_.sub_block;
      wanted_[j] = SearchScale(shape_.grid, x_ + at, w_ + at, shape_.sub_block, values + at);
      if (std::fabs(wanted_[j]) > std::fabs(extreme)) extreme = wanted_[j];
    }
    for (const float reach : {shape_.lo, shape_.hi}) {
      float scale = extreme / reach;
      for (int pass = 0; pass < kPasses; ++pass) scale = Pass(scale);
    }
    return best_;
  }

 private:
  // The block with this scale; returns the scale that would suit its multiples and values best.
  float Pass(float scale) {
    SymmetricBlock block;
    const float stored = StoreF16Scale(scale, block.scale);
    block.error = 0;
    double along = 0, square = 0;
    for (int at = 0, j = 0; at < kSuper; at += shape_.sub_block, ++j) {
      block.error += BestMultiple(stored, j, block);
      for (int i = at; i < at + shape_.sub_block; ++i) {
        const double value = block.multiples[j] * block.values[i];
        along += w_[i] * x_[i] * value;
        square += w_[i] * value * value;
      }
    }
    if (best_.error < 0 || block.error < best_.error) best_ = block;
    return square > 0 ? static_cast<float>(along / square) : 0.0f;
  }

  float BestMultiple(float scale, int j, SymmetricBlock& block) const {
    const int at = j * shape_.sub_block;
    const float nearest =
        scale != 0 ? Nearest(std::clamp(wanted_[j] / scale, shape_.lo, shape_.hi)) : 0.0f;
    float best = -1;
    for (const float multiple : {nearest, nearest - 1, nearest + 1}) {
      if (multiple < shape_.lo || multiple > shape_.hi) continue;
      float values[kSuper];
      const float error =
          GridValues(shape_.grid, scale * multiple, x_ + at, w_ + at, shape_.sub_block, values);
      if (best >= 0 && error >= best) continue;
      best = error;
      block.multiples[j] = multiple;
      std::copy(values, values + shape_.sub_block, block.values + at);
    }
    return best;
  }

  const SymmetricShape& shape_;
  const float* x_;
  const float* w_;
  float wanted_[kMaxSubBlocks] = {};
  SymmetricBlock best_;
};

// ---- scale * multiple * code - min * multiple

struct AffineShape {
  float max_code = 15;
  int sub_block = 32;
  float max_multiple = 63;
};

struct AffineBlock {
  uint8_t scale[2] = {}, min[2] = {};  // f16
  float scales[kMaxSubBlocks] = {}, mins[kMaxSubBlocks] = {};
  float codes[kSuper] = {};
  float error = -1;
};

class AffineSuperSearch {
 public:
  AffineSuperSearch(const AffineShape& shape, const float* x, const float* w)
      : shape_(shape), x_(x), w_(w) {}

  AffineBlock Run() {
    const int num = kSuper / shape_.sub_block;
    AffineFit steps;
    for (int j = 0; j < num; ++j) {
      const int at = j * shape_.sub_block;
      wanted_[j] = SearchAffine(shape_.max_code, true, x_ + at, w_ + at, shape_.sub_block);
      steps.scale = std::max(steps.scale, wanted_[j].scale / shape_.max_multiple);
      steps.min = std::max(steps.min, -wanted_[j].min / shape_.max_multiple);
    }
    for (int pass = 0; pass < kPasses; ++pass) steps = Pass(steps);
    return best_;
  }

 private:
  // The block with these two; returns those that would suit its multiples and codes best.
  AffineFit Pass(const AffineFit& steps) {
    AffineBlock block;
    const float scale = StoreF16Scale(steps.scale, block.scale);
    const float min = StoreF16Scale(steps.min, block.min);
    block.error = 0;
    for (int j = 0; j < kSuper / shape_.sub_block; ++j) {
      block.error += BestMultiples(scale, min, j, block);
    }
    if (best_.error < 0 || block.error < best_.error) best_ = block;
    return Refit(block, {scale, min});
  }

  float Multiple(float wanted, float step) const {
    return step > 0 ? Nearest(std::clamp(wanted / step, 0.0f, shape_.max_multiple)) : 0.0f;
  }

  float BestMultiples(float scale, float min, int j, AffineBlock& block) const {
    const int at = j * shape_.sub_block;
    const float near_scale = Multiple(wanted_[j].scale, scale);
    const float near_min = Multiple(-wanted_[j].min, min);
    float best = -1;
    for (const float s : {near_scale, near_scale - 1, near_scale + 1}) {
      if (s < 0 || s > shape_.max_multiple) continue;
      for (const float m : {near_min, near_min - 1, near_min + 1}) {
        if (m < 0 || m > shape_.max_multiple) continue;
        float codes[kSuper];
        const float error = AffineCodes(shape_.max_code, scale * s, -min * m, x_ + at, w_ + at,
                                        shape_.sub_block, codes);
        if (best >= 0 && error >= best) continue;
        best = error;
        block.scales[j] = s;
        block.mins[j] = m;
        std::copy(codes, codes + shape_.sub_block, block.codes + at);
      }
    }
    return best;
  }

  // x is about scale a - min b with a = multiple * code and b = multiple: weighted least squares.
  AffineFit Refit(const AffineBlock& block, const AffineFit& now) const {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < kSuper; ++i) {
      const double a = block.scales[i / shape_.sub_block] * block.codes[i];
      const double b = block.mins[i / shape_.sub_block];
      aa += w_[i] * a * a;
      ab += w_[i] * a * b;
      bb += w_[i] * b * b;
      ax += w_[i] * a * x_[i];
      bx += w_[i] * b * x_[i];
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant <= 1e-9 * aa * bb) {  // no mins, or no scales
      return {aa > 0 ? std::max(0.0f, static_cast<float>(ax / aa)) : now.scale, now.min};
    }
    const AffineFit fit = {static_cast<float>((ax * bb - bx * ab) / determinant),
                           static_cast<float>((ax * ab - bx * aa) / determinant)};
    return fit.scale >= 0 && fit.min >= 0 ? fit : now;
  }

  const AffineShape& shape_;
  const float* x_;
  const float* w_;
  AffineFit wanted_[kMaxSubBlocks] = {};
  AffineBlock best_;
};

// ---- fields

// Q2_K and Q3_K: two halves of 128 elements over 32 bytes each, four rows at shifts 0, 2, 4 and 6.
void PackTwoBits(const uint8_t (&codes)[kSuper], uint8_t* qs) {
  std::memset(qs, 0, 64);
  for (int n = 0; n < kSuper; ++n) {
    qs[n / 128 * 32 + n % 32] |= static_cast<uint8_t>((codes[n] & 3) << (2 * (n / 32 % 4)));
  }
}

// Q4_K and Q5_K: eight pairs of 6 bits in 12 bytes (UnpackSixBitPair).
void PackSixBitPairs(const AffineBlock& block, uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    const auto scale = static_cast<int>(block.scales[j]), min = static_cast<int>(block.mins[j]);
    const auto scale4 = static_cast<int>(block.scales[j + 4]);
    const auto min4 = static_cast<int>(block.mins[j + 4]);
    out[j] = static_cast<uint8_t>(scale | (scale4 >> 4) << 6);
    out[j + 4] = static_cast<uint8_t>(min | (min4 >> 4) << 6);
    out[j + 8] = static_cast<uint8_t>((scale4 & 15) | (min4 & 15) << 4);
  }
}

// Low nibbles of 32 bytes are one sub-block, high nibbles the next.
void PackKNibbles(const float* codes, uint8_t* qs) {
  for (int n = 0; n < kSuper; n += 64) {
    for (int l = 0; l < 32; ++l) {
      const int low = static_cast<int>(codes[n + l]) & 15;
      const int high = static_cast<int>(codes[n + l + 32]) & 15;
      qs[n / 2 + l] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

// Two f16 and eight pairs: the head of Q4_K and Q5_K.
void PackHead(const AffineBlock& block, uint8_t* out) {
  std::memcpy(out, block.scale, 2);
  std::memcpy(out + 2, block.min, 2);
  PackSixBitPairs(block, out + 4);
}

}  // namespace

void EncodeQ2_K(const float* x, const float* w, uint8_t* out) {
  const AffineShape shape = {.max_code = 3, .sub_block = 16, .max_multiple = 15};
  const AffineBlock block = AffineSuperSearch(shape, x, w).Run();
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<uint8_t>(static_cast<int>(block.scales[j]) |
                                  static_cast<int>(block.mins[j]) << 4);
  }
  uint8_t codes[kSuper];
  for (int n = 0; n < kSuper; ++n) codes[n] = static_cast<uint8_t>(block.codes[n]);
  PackTwoBits(codes, out + 16);
  std::memcpy(out + 80, block.scale, 2);
  std::memcpy(out + 82, block.min, 2);
}

void EncodeQ3_K(const float* x, const float* w, uint8_t* out) {
  const SymmetricShape shape = {.grid = {.lo = -4, .hi = 3, .spread = 0.9f}};
  const SymmetricBlock block = SymmetricSearch(shape, x, w).Run();
  std::memset(out, 0, 110);
  uint8_t codes[kSuper];
  for (int n = 0; n < kSuper; ++n) {
    codes[n] = static_cast<uint8_t>(block.values[n] + 4);
    out[n % 32] |= static_cast<uint8_t>((codes[n] >> 2) << (n / 32));
  }
  PackTwoBits(codes, out + 32);
  uint8_t* scales = out + 96;  // Q3KScale
  for (int j = 0; j < 16; ++j) {
    const int scale = static_cast<int>(block.multiples[j]) + 32;
    scales[j % 8] |= static_cast<uint8_t>((scale & 15) << (j < 8 ? 0 : 4));
    scales[8 + j % 4] |= static_cast<uint8_t>((scale >> 4) << (2 * (j / 4)));
  }
  std::memcpy(out + 108, block.scale, 2);
}

void EncodeQ4_K(const float* x, const float* w, uint8_t* out) {
  const AffineShape shape = {.max_code = 15};
  const AffineBlock block = AffineSuperSearch(shape, x, w).Run();
  PackHead(block, out);
  PackKNibbles(block.codes, out + 16);
}

void EncodeQ5_K(const float* x, const float* w, uint8_t* out) {
  const AffineShape shape = {.max_code = 31};
  const AffineBlock block = AffineSuperSearch(shape, x, w).Run();
  PackHead(block, out);
  std::memset(out + 16, 0, 32);
  for (int n = 0; n < kSuper; ++n) {
    out[16 + n % 32] |= static_cast<uint8_t>((static_cast<int>(block.codes[n]) >> 4) << (n / 32));
  }
  PackKNibbles(block.codes, out + 48);
}

void EncodeQ6_K(const float* x, const float* w, uint8_t* out) {
  const SymmetricShape shape = {
      .grid = {.lo = -32, .hi = 31, .spread = 0.9f}, .lo = -128, .hi = 127};
  const SymmetricBlock block = SymmetricSearch(shape, x, w).Run();
  std::memset(out, 0, 192);
  for (int n = 0; n < kSuper; ++n) {  // as PlaceQ6_K reads: half, row of 32, element
    const int code = static_cast<int>(block.values[n]) + 32;
    const int half = n / 128, row = n / 32 % 4, l = n % 32;
    out[half * 64 + row % 2 * 32 + l] |= static_cast<uint8_t>((code & 15) << (4 * (row / 2)));
    out[128 + half * 32 + l] |= static_cast<uint8_t>((code >> 4) << (2 * row));
  }
  for (int j = 0; j < 16; ++j) {
    out[192 + j] = static_cast<uint8_t>(static_cast<int8_t>(block.multiples[j]));
  }
  std::memcpy(out + 208, block.scale, 2);
}

void EncodeIq4Xs(const float* x, const float* w, uint8_t* out) {
  const SymmetricShape shape = {
      .grid = {.lo = -127, .hi = 113, .table = CodeValues(GgmlType::kIQ4_NL), .spread = 9},
      .sub_block = 32};
  const SymmetricBlock block = SymmetricSearch(shape, x, w).Run();
  std::memset(out, 0, 136);
  std::memcpy(out, block.scale, 2);
  uint16_t high = 0;
  for (int j = 0; j < 8; ++j) {  // Iq4XsScale
    const int scale = static_cast<int>(block.multiples[j]) + 32;
    out[4 + j / 2] |= static_cast<uint8_t>((scale & 15) << (4 * (j % 2)));
    high = static_cast<uint16_t>(high | (scale >> 4) << (2 * j));
  }
  std::memcpy(out + 2, &high, sizeof(high));
  for (int n = 0; n < kSuper; ++n) {
    out[8 + n / 32 * 16 + n % 16] |=
        static_cast<uint8_t>(Iq4Code(block.values[n]) << (n % 32 < 16 ? 0 : 4));
  }
}

}  // namespace nibble

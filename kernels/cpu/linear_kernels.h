// What one instruction set provides to the linear op: the innermost loops, over plain memory.
// linear.cc holds the loops around them. Only plain types here, because the ISA files include it
// (see CMakeLists.txt).
//
// The unit of work is a tile: one row block of a weight (16 output features, see packed_matrix.h)
// times 1 to 8 rows of x ("tokens"). A tile's arithmetic for a token never depends on how many
// tokens are beside it.
#pragma once

#include <cstdint>

namespace nibble::cpu {

inline constexpr int32_t kBlockRows = 16;  // output features of a row block
inline constexpr int32_t kTileTokens =
    8;  // 8 f32 and 8 integer accumulators fill half the AVX-512 registers
inline constexpr int32_t kGroup = 32;  // columns an activation scale covers
inline constexpr int32_t kPanelCols =
    256;  // columns dequantized at a time: 16 KiB, half an L1 cache

// How the codes of a row block are stored: packed_matrix.h. Those before kE4m3 meet int8
// activations.
enum class Storage : uint8_t { kInt4, kInt5, kInt6, kInt8, kLut4, kE4m3, kE5m2, kBf16, kF32 };
constexpr bool IsInt(Storage storage) { return storage < Storage::kE4m3; }

// How its scales are. kE8m0 is the exponent byte of an f32; the k-quants' are of two levels;
// kWords are below.
enum class ScaleType : uint8_t { kF32, kF16, kE8m0, kQ4K, kQ6K, kWords };  // Q5_K's are Q4_K's

// The values of 4-bit codes. Where all are whole multiples, -127 to 127, of one power of two,
// factor * (high[q] - 128) is values[q] exactly. Otherwise (two_planes) it takes two integer dot
// products: factor * (256 * (high[q] - 128) + low[q] - 128) is within 1.6e-5 of the largest entry.
struct LutTable {
  alignas(64) float values[16] = {};
  alignas(16) uint8_t high[16] = {};
  alignas(16) uint8_t low[16] = {};
  float factor = 1;  // of a tile's sums, once at the end
  bool two_planes = false;
};

// The k-quants' scales of a super-block of 256 columns: packed_matrix.h has their layout.
inline constexpr int32_t kQ4KScaleBytes = 256;
inline constexpr int32_t kQ4KMinAt = 32;    // f16 -dmin[16], after d[16]
inline constexpr int32_t kQ4KLowerAt = 64;  // nibbles of the sub-scales and mins
inline constexpr int32_t kQ4KUpperAt = 192;
inline constexpr int32_t kQ6KScaleBytes = 288;
inline constexpr int32_t kQ6KSubScalesAt = 32;

// Int4 weights whose scales are f16 and which only int8 activations meet have their scales in fixed
// point, as "words": 64 columns at a time, a pair of groups of 32, one multiply then serves the
// scales of both groups, another both dots. A feature's unit is a power of two, such that its words
// fit:
//   scale word   round(scale / unit)              |.| <= 32767
//   offset word  round(offset / (16 * unit))      |.| <= 16383; of codes that are centred at 8
// ("centred": offset + (8 - zero_point) * scale). What a scale loses is at most 2^-15 of the
// feature's largest. WordAt (packed_matrix.h) says where they stand; an odd last group of 32 has a
// partner of zeros.
inline constexpr int32_t kWordCenter = 8;
inline constexpr float kMaxScaleWord = 32767, kMaxOffsetWord = 16383, kOffsetWordUnits = 16;
// Of activations (TileLayout): the scale word of the larger group, and what sums are shifted by.
inline constexpr int32_t kActivationScaleOne = 1 << 14, kSumWordShift = 11;
constexpr int32_t NumPairs(int32_t groups) { return (groups + 1) / 2; }

// One row block of a packed weight.
struct WeightBlock {
  const uint8_t* codes = nullptr;
  const uint8_t* scales = nullptr;
  const float* units = nullptr;   // [16], of kWords; else null
  const LutTable* lut = nullptr;  // kLut4
  int32_t cols = 0;
  int32_t group = 0;       // columns a scale covers: 16, a multiple of 32, or any for kE4m3, kE5m2
  int32_t zero_point = 0;  // value = scale * (code - zero_point) + offset; codes are unsigned
  Storage storage = Storage::kF32;
  ScaleType scale_type = ScaleType::kF32;
  bool has_offsets = false;

  constexpr bool has_offset_words() const { return zero_point == 0; }
};

// Where a tile's results go: y[t * stride + n] for tokens t and features n < num_rows.
struct OutputTile {
  float* y = nullptr;
  int64_t stride = 0;
  const float* bias = nullptr;  // [num_rows] or null
  int32_t num_rows = 0;         // 1 .. 16
  bool accumulate = false;
};

// Quantized activations of the `tokens` rows of a tile. For each group of 32 columns, one after the
// other:
//   s8  codes     [tokens][32]   round(x / scale), in -127 .. 127
//   f32 scale     [tokens]       max |x| / 127
//   s32 minus_sum [tokens]       -sum of the codes: what a zero point is multiplied with
//   f32 sum       [tokens]       scale * sum of the codes: what an offset is multiplied with
// and, only for weights with a scale every 16 columns ("halves"), the last two again for each half:
//   s32 minus_sum [2][tokens], f32 sum [2][tokens]
// So that all addresses inside a group are constants once `tokens` is one. A group with an infinity
// or a NaN has codes 0 and the scale NaN, which makes every y of the row NaN; one below 2^-100
// counts as zero.
//
// For weights with words, after all groups, for each pair of them:
//   s32 minus_sum [2][tokens]  8 * minus_sum of each group
//   s16 scales    [tokens][2]  round(2^14 * scale / the larger of both)
//   s16 sums      [tokens][2]  round(scales * sum of the codes / 2^11)
//   f32 factor    [tokens]     the larger scale * kFactorScale
struct TileLayout {
  int32_t tokens = 0;
  bool halves = false;
  int32_t word_groups = 0;  // of the tile, where there are words for them; else 0

  constexpr int32_t group_bytes() const { return tokens * (kGroup + 4 * (halves ? 7 : 3)); }
  constexpr int32_t scale_at() const { return tokens * kGroup; }
  constexpr int32_t minus_sum_at() const { return tokens * (kGroup + 4); }
  constexpr int32_t sum_at() const { return tokens * (kGroup + 8); }
  constexpr int32_t half_minus_sum_at(int half) const { return tokens * (kGroup + 12 + 4 * half); }
  constexpr int32_t half_sum_at(int half) const { return tokens * (kGroup + 20 + 4 * half); }

  constexpr int64_t pairs_at() const { return int64_t{word_groups} * group_bytes(); }
  constexpr int32_t pair_bytes() const { return tokens * 20; }
  constexpr int32_t pair_minus_sum_at(int group) const { return tokens * 4 * group; }
  constexpr int32_t pair_scales_at() const { return tokens * 8; }
  constexpr int32_t pair_sums_at() const { return tokens * 12; }
  constexpr int32_t pair_factor_at() const { return tokens * 16; }
  constexpr int64_t tile_bytes(int32_t groups) const {
    return int64_t{groups} * group_bytes() + int64_t{NumPairs(word_groups)} * pair_bytes();
  }
};
// A pair's sum is factor times an integer of 31 bits, a feature's is unit * kUnitScale times all of
// its pairs': no factor of a scale is below the smallest float, no sum overflows for x below 2^110.
inline constexpr float kFactorScale = 0x1p-16f, kUnitScale = 2 / kFactorScale;
inline constexpr float kSmallestScaled = 0x1p-100f;

struct LinearKernels {
  // Quantizes columns k0 .. k1 - 1 of all tokens of a tile; x[t * x_stride + k] is column k of
  // token t. k0 % 32 == 0 == k1 % 32; with words k0 % 64 == 0, and k1 % 64 but at the last column.
  // A whole tile at once, because tokens share the cache lines of their scales and sums.
  void (*quantize_tile)(const float* x, int64_t x_stride, int32_t k0, int32_t k1,
                        const TileLayout& layout, uint8_t* tile);

  // The tile of an int4 or int8 row block times quantized activations.
  void (*int_tile)(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout,
                   const OutputTile& out);

  // panel[k - k0][16] = columns k0 .. k1 - 1 of the row block in f32. For int storage k0 % 32 == 0
  // == k1 % 32.
  void (*dequantize_panel)(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel);

  // sums[t][16] += panel[k][16] * x[t * x_stride + k], in an order that tokens do not change; 1 <=
  // tokens <= 8.
  void (*panel_tile)(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
                     int32_t tokens, float* sums);

  // Adds bias, adds to or replaces y. sums [tokens][16].
  void (*store_tile)(const float* sums, int32_t tokens, const OutputTile& out);
};

// One for each of isa.h, but that avx512_vnni_bf16 takes kAvx512VnniLinear. Empty where the
// compiler's architecture is another.
extern const LinearKernels kScalarLinear;
extern const LinearKernels kAvx2Linear;
extern const LinearKernels kAvx512Linear;
extern const LinearKernels kAvxVnniLinear;
extern const LinearKernels kAvx512VnniLinear;
extern const LinearKernels kNeonLinear;

}  // namespace nibble::cpu

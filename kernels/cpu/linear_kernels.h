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

// How its scales are. kE8m0 is the exponent byte of an f32; the k-quants' are of two levels.
enum class ScaleType : uint8_t { kF32, kF16, kE8m0, kQ4K, kQ6K };  // Q5_K's are Q4_K's

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

// One row block of a packed weight.
struct WeightBlock {
  const uint8_t* codes = nullptr;
  const uint8_t* scales = nullptr;
  const LutTable* lut = nullptr;  // kLut4
  int32_t cols = 0;
  int32_t group = 0;       // columns a scale covers: 16, a multiple of 32, or any for kE4m3, kE5m2
  int32_t zero_point = 0;  // value = scale * (code - zero_point) + offset; codes are unsigned
  Storage storage = Storage::kF32;
  ScaleType scale_type = ScaleType::kF32;
  bool has_offsets = false;
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
struct TileLayout {
  int32_t tokens = 0;
  bool halves = false;

  constexpr int32_t group_bytes() const { return tokens * (kGroup + 4 * (halves ? 7 : 3)); }
  constexpr int32_t scale_at() const { return tokens * kGroup; }
  constexpr int32_t minus_sum_at() const { return tokens * (kGroup + 4); }
  constexpr int32_t sum_at() const { return tokens * (kGroup + 8); }
  constexpr int32_t half_minus_sum_at(int half) const { return tokens * (kGroup + 12 + 4 * half); }
  constexpr int32_t half_sum_at(int half) const { return tokens * (kGroup + 20 + 4 * half); }
};
inline constexpr float kSmallestScaled = 0x1p-100f;

struct LinearKernels {
  // Quantizes columns k0 .. k1 - 1 of all tokens of a tile; x[t * x_stride + k] is column k of
  // token t. k0 % 32 == 0 == k1 % 32. A whole tile at once, because tokens share the cache lines of
  // their scales and sums.
  void (*quantize_tile)(const float* x, int64_t x_stride, int32_t k0, int32_t k1, TileLayout layout,
                        uint8_t* tile);

  // The tile of an int4 or int8 row block times quantized activations.
  void (*int_tile)(const WeightBlock& weight, const uint8_t* tile, TileLayout layout,
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

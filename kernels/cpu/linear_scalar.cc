// The readable path: what linear_avx2.cc and linear_avx512.cc must agree with, and what runs where
// they cannot. It goes through the layout by packed_matrix.h's index functions, one element at a
// time.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/weight_element.h"

namespace nibble::cpu {
namespace {

template <typename T>
void Store(uint8_t* bytes, int64_t index, T value) {
  std::memcpy(bytes + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

// Of a group or half: minus_sum and sum, from its codes.
void StoreSums(const int8_t* codes, int count, float scale, uint8_t* minus_sum, uint8_t* sum,
               int32_t token) {
  int32_t total = 0;
  for (int i = 0; i < count; ++i) total += codes[i];
  Store<int32_t>(minus_sum, token, -total);
  Store<float>(sum, token, scale * static_cast<float>(total));
}

void QuantizeGroup(const float* x, const TileLayout& layout, int32_t token, uint8_t* group) {
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < kGroup; ++i) {
    largest = std::fmax(largest, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  float scale = largest / 127.0f;
  float inverse = 127.0f / largest;
  if (!finite) {
    scale = NAN;
    inverse = 0;
  } else if (largest < kSmallestScaled) {
    scale = 0;
    inverse = 0;
  }
  int8_t codes[kGroup] = {};
  for (int i = 0; i < kGroup && inverse != 0; ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
  }
  std::memcpy(group + token * kGroup, codes, kGroup);
  Store<float>(group + layout.scale_at(), token, scale);
  StoreSums(codes, kGroup, scale, group + layout.minus_sum_at(), group + layout.sum_at(), token);
  for (int half = 0; half < 2 && layout.halves; ++half) {
    StoreSums(codes + 16 * half, 16, scale, group + layout.half_minus_sum_at(half),
              group + layout.half_sum_at(half), token);
  }
}

// What weights with words take of the pair of groups from `group` on; the last may be alone.
void StorePair(const uint8_t* group, bool alone, const TileLayout& layout, int32_t token,
               uint8_t* pair) {
  float scale[2] = {};
  int32_t minus_sum[2] = {};
  for (int i = 0; i < (alone ? 1 : 2); ++i, group += layout.group_bytes()) {
    scale[i] = LoadAs<float>(group + layout.scale_at(), token);
    minus_sum[i] = LoadAs<int32_t>(group + layout.minus_sum_at(), token);
  }
  const bool spoilt = std::isnan(scale[0]) || std::isnan(scale[1]);
  const float larger = std::fmax(scale[0], scale[1]);
  for (int i = 0; i < 2; ++i) {
    const float ratio = larger > 0 && !spoilt ? scale[i] * (kActivationScaleOne / larger) : 0;
    const auto word = static_cast<int32_t>(std::nearbyint(ratio));
    const int32_t sum = (word * -minus_sum[i] + (1 << (kSumWordShift - 1))) >> kSumWordShift;
    Store<int32_t>(pair + layout.pair_minus_sum_at(i), token, kWordCenter * minus_sum[i]);
    Store<int16_t>(pair + layout.pair_scales_at(), 2 * token + i, static_cast<int16_t>(word));
    Store<int16_t>(pair + layout.pair_sums_at(), 2 * token + i, static_cast<int16_t>(sum));
  }
  Store<float>(pair + layout.pair_factor_at(), token, spoilt ? NAN : kFactorScale * larger);
}

void QuantizeTile(const float* x, int64_t x_stride, int32_t k0, int32_t k1,
                  const TileLayout& layout, uint8_t* tile) {
  for (int32_t k = k0; k < k1; k += kGroup) {
    uint8_t* const group = tile + k / kGroup * layout.group_bytes();
    for (int32_t t = 0; t < layout.tokens; ++t) {
      QuantizeGroup(x + t * x_stride + k, layout, t, group);
    }
  }
  if (layout.word_groups == 0) return;
  for (int32_t k = k0; k < k1; k += 2 * kGroup) {
    const uint8_t* const group = tile + k / kGroup * layout.group_bytes();
    uint8_t* const pair = tile + layout.pairs_at() + k / (2 * kGroup) * layout.pair_bytes();
    for (int32_t t = 0; t < layout.tokens; ++t) StorePair(group, k + kGroup == k1, layout, t, pair);
  }
}

// sum over columns k0 .. k0 + count - 1 of (code - zero_point) * activation, exact.
int32_t IntegerDot(const WeightBlock& w, int32_t row, int32_t k0, int32_t count,
                   const uint8_t* activations, int32_t minus_sum) {
  int32_t dot = w.zero_point * minus_sum;
  for (int32_t i = 0; i < count; ++i) {
    dot += WeightCode(w, row, k0 + i) * static_cast<int8_t>(activations[i]);
  }
  return dot;
}

// round(a * b / 2^15)
int32_t MulHighWord(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

// One output of a weight with words: a pair of groups at a time.
float WordOutput(const WeightBlock& w, int32_t row, const uint8_t* tile, const TileLayout& layout,
                 int32_t token) {
  float sum = 0;
  const int32_t groups = w.cols / kGroup;
  for (int32_t first = 0; first < groups; first += 2) {
    const uint8_t* const pair = tile + layout.pairs_at() + first / 2 * layout.pair_bytes();
    int32_t total = 0;
    for (int32_t g = first; g < std::min(first + 2, groups); ++g) {
      const uint8_t* const codes = tile + g * layout.group_bytes() + token * kGroup;
      const int32_t x_scale = LoadAs<int16_t>(pair + layout.pair_scales_at(), 2 * token + g % 2);
      const int32_t scale = MulHighWord(ScaleWord(w, row, g * kGroup), x_scale);
      int32_t dot = LoadAs<int32_t>(pair + layout.pair_minus_sum_at(g % 2), token);
      for (int32_t i = 0; i < kGroup; ++i) {
        dot += WeightCode(w, row, g * kGroup + i) * static_cast<int8_t>(codes[i]);
      }
      const int32_t x_sum = LoadAs<int16_t>(pair + layout.pair_sums_at(), 2 * token + g % 2);
      total += dot * scale + OffsetWord(w, row, g * kGroup) * x_sum;
    }
    sum += LoadAs<float>(pair + layout.pair_factor_at(), token) * static_cast<float>(total);
  }
  return w.units[row] * kUnitScale * sum;
}

// One output: groups in ascending order into one f32 accumulator.
float Output(const WeightBlock& w, int32_t row, const uint8_t* tile, const TileLayout& layout,
             int32_t token) {
  const int32_t segment =
      w.group < kGroup ? w.group : kGroup;  // columns of one integer dot product
  float sum = 0;
  for (int32_t k = 0; k < w.cols; k += segment) {
    const uint8_t* group = tile + k / kGroup * layout.group_bytes();
    const int half = k % kGroup / 16;
    const bool whole = segment == kGroup;
    const int32_t minus_sum = LoadAs<int32_t>(
        group + (whole ? layout.minus_sum_at() : layout.half_minus_sum_at(half)), token);
    const float x_sum =
        LoadAs<float>(group + (whole ? layout.sum_at() : layout.half_sum_at(half)), token);
    const float x_scale = LoadAs<float>(group + layout.scale_at(), token);
    const int32_t dot =
        IntegerDot(w, row, k, segment, group + token * kGroup + k % kGroup, minus_sum);
    sum += WeightScale(w, row, k) * x_scale * static_cast<float>(dot);
    if (w.has_offsets) sum += WeightOffset(w, row, k) * x_sum;
  }
  return w.storage == Storage::kLut4 ? w.lut->factor * sum : sum;
}

void StoreTile(const float* sums, int32_t tokens, const OutputTile& out) {
  for (int32_t t = 0; t < tokens; ++t) {
    for (int32_t n = 0; n < out.num_rows; ++n) {
      float value = sums[t * kBlockRows + n];
      if (out.bias != nullptr) value += out.bias[n];
      float* y = out.y + t * out.stride + n;
      *y = out.accumulate ? *y + value : value;
    }
  }
}

void IntTile(const WeightBlock& weight, const uint8_t* tile, const TileLayout& layout,
             const OutputTile& out) {
  const bool words = weight.scale_type == ScaleType::kWords;
  float sums[kTileTokens * kBlockRows];
  for (int32_t t = 0; t < layout.tokens; ++t) {
    for (int32_t row = 0; row < out.num_rows; ++row) {
      sums[t * kBlockRows + row] = (words ? WordOutput : Output)(weight, row, tile, layout, t);
    }
  }
  StoreTile(sums, layout.tokens, out);
}

void DequantizePanel(const WeightBlock& weight, int32_t k0, int32_t k1, float* panel) {
  for (int32_t k = k0; k < k1; ++k) {
    for (int32_t row = 0; row < kBlockRows; ++row) *panel++ = WeightValue(weight, row, k);
  }
}

void PanelTile(const float* panel, int32_t num_cols, const float* x, int64_t x_stride,
               int32_t tokens, float* sums) {
  for (int32_t t = 0; t < tokens; ++t) {
    for (int32_t k = 0; k < num_cols; ++k) {
      for (int32_t row = 0; row < kBlockRows; ++row) {
        sums[t * kBlockRows + row] += panel[k * kBlockRows + row] * x[t * x_stride + k];
      }
    }
  }
}

}  // namespace

const LinearKernels kScalarLinear = {.quantize_tile = QuantizeTile,
                                     .int_tile = IntTile,
                                     .dequantize_panel = DequantizePanel,
                                     .panel_tile = PanelTile,
                                     .store_tile = StoreTile};

}  // namespace nibble::cpu

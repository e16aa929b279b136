// One element of a row block, by the index functions of packed_matrix.h: the readable definition of
// the layouts. The scalar kernels and the row gather are made of it; not for the ISA files.
//
//   weight = WeightScale * (WeightCode - zero_point) + WeightOffset     integers but lut4
//   weight = WeightScale * values[nibble]                               lut4
//   weight = WeightScale * value                                        fp8 (bf16, f32: no scale)
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/packed_matrix.h"
#include "kernels/fp8.h"
#include "kernels/half.h"

namespace nibble::cpu {

template <typename T>
T LoadAs(const uint8_t* bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// f32, f16 or e8m0.
inline float PlainScale(const WeightBlock& w, int64_t element) {
  if (w.scale_type == ScaleType::kF16) return F16ToF32(LoadAs<uint16_t>(w.scales, element));
  if (w.scale_type == ScaleType::kF32) return LoadAs<float>(w.scales, element);
  return std::bit_cast<float>(static_cast<uint32_t>(w.scales[element]) << 23);
}

// The 6-bit scale or min of a Q4_K sub-block.
inline int32_t Q4KSubScale(const uint8_t* super, int32_t row, int sub, bool is_min) {
  const int32_t low = super[Q4KLowAt(row, sub)] >> (is_min ? 4 : 0) & 15;
  return low | (super[Q4KHighAt(row, sub)] >> Q4KHighShift(sub, is_min) & 3) << 4;
}

// The words of the group of column k.
inline int16_t ScaleWord(const WeightBlock& w, int32_t row, int32_t k) {
  return LoadAs<int16_t>(w.scales, WordAt(row, k / w.group, w.group, w.has_offset_words()).scale);
}
inline int16_t OffsetWord(const WeightBlock& w, int32_t row, int32_t k) {
  if (!w.has_offset_words()) return 0;
  const WordPlace at = WordAt(row, k / w.group, w.group, true);
  return LoadAs<int16_t>(w.scales, at.scale + at.offset);
}

inline float WeightScale(const WeightBlock& w, int32_t row, int32_t k) {
  if (w.scale_type == ScaleType::kWords) {
    return w.units[row % kBlockRows] * static_cast<float>(ScaleWord(w, row, k));
  }
  if (w.scale_type == ScaleType::kQ4K) {
    const uint8_t* super = w.scales + SuperAt(row, k / kSuperCols, w.cols, kQ4KScaleBytes);
    const auto sub = static_cast<float>(Q4KSubScale(super, row, k % kSuperCols / 32, false));
    return F16ToF32(LoadAs<uint16_t>(super, row % kBlockRows)) * sub;
  }
  if (w.scale_type == ScaleType::kQ6K) {
    const uint8_t* super = w.scales + SuperAt(row, k / kSuperCols, w.cols, kQ6KScaleBytes);
    const auto sub = static_cast<int8_t>(super[Q6KSubScaleAt(row, k % kSuperCols / 16)]);
    return F16ToF32(LoadAs<uint16_t>(super, row % kBlockRows)) * static_cast<float>(sub);
  }
  const int32_t groups = (w.cols + w.group - 1) / w.group;
  return PlainScale(w, ScaleAt(row, k / w.group, groups, w.has_offsets));
}

inline float WeightOffset(const WeightBlock& w, int32_t row, int32_t k) {
  if (!w.has_offsets) return 0;
  if (w.scale_type == ScaleType::kWords) {
    const float centered = kOffsetWordUnits * static_cast<float>(OffsetWord(w, row, k));
    return w.units[row % kBlockRows] * centered - kWordCenter * WeightScale(w, row, k);
  }
  if (w.scale_type == ScaleType::kQ4K) {
    const uint8_t* super = w.scales + SuperAt(row, k / kSuperCols, w.cols, kQ4KScaleBytes);
    const auto sub = static_cast<float>(Q4KSubScale(super, row, k % kSuperCols / 32, true));
    return F16ToF32(LoadAs<uint16_t>(super, kBlockRows + row % kBlockRows)) * sub;
  }
  return PlainScale(w, ScaleAt(row, k / w.group, w.cols / w.group, true) + kBlockRows);
}

inline int32_t NibbleOf(uint8_t byte, int32_t col) {
  return Int4IsHighNibble(col) ? byte >> 4 : byte & 15;
}

// An unsigned code of an integer storage; lut4's are the table's fixed-point values.
inline int32_t WeightCode(const WeightBlock& w, int32_t row, int32_t k) {
  switch (w.storage) {
    case Storage::kInt4:
      return NibbleOf(w.codes[Int4CodeAt(row, k, w.cols)], k);
    case Storage::kInt5:
      return NibbleOf(w.codes[Int5LowAt(row, k, w.cols)], k) |
             (w.codes[Int5HighAt(row, k, w.cols)] >> Int5HighShift(k) & 1) << 4;
    case Storage::kInt6:
      return NibbleOf(w.codes[Int6LowAt(row, k, w.cols)], k) |
             (w.codes[Int6HighAt(row, k, w.cols)] >> Int6HighShift(k) & 3) << 4;
    case Storage::kLut4: {
      const int32_t q = NibbleOf(w.codes[Int4CodeAt(row, k, w.cols)], k);
      return w.lut->two_planes ? 256 * (w.lut->high[q] - 128) + w.lut->low[q] : w.lut->high[q];
    }
    default:
      return w.codes[Int8CodeAt(row, k, w.cols)];
  }
}

// A value of a float storage, or of lut4's table, before its scale.
inline float UnscaledWeight(const WeightBlock& w, int32_t row, int32_t k) {
  switch (w.storage) {
    case Storage::kLut4:
      return w.lut->values[NibbleOf(w.codes[Int4CodeAt(row, k, w.cols)], k)];
    case Storage::kE4m3:
      return E4m3ToF32(w.codes[FloatCodeAt(row, k, w.cols)]);
    case Storage::kE5m2:
      return E5m2ToF32(w.codes[FloatCodeAt(row, k, w.cols)]);
    case Storage::kBf16:
      return Bf16ToF32(LoadAs<uint16_t>(w.codes, FloatCodeAt(row, k, w.cols)));
    default:
      return LoadAs<float>(w.codes, FloatCodeAt(row, k, w.cols));
  }
}

// Bit for bit what quant::Matrix defines, given the element's scale and offset.
inline float ScaledWeight(const WeightBlock& w, int32_t row, int32_t k, float scale, float offset) {
  if (w.storage == Storage::kBf16 || w.storage == Storage::kF32) return UnscaledWeight(w, row, k);
  if (w.storage == Storage::kLut4 || !IsInt(w.storage)) return scale * UnscaledWeight(w, row, k);
  const float product = scale * static_cast<float>(WeightCode(w, row, k) - w.zero_point);
  return w.has_offsets ? product + offset : product;
}

inline float WeightValue(const WeightBlock& w, int32_t row, int32_t k) {
  const float scale = w.group == 0 ? 1.0f : WeightScale(w, row, k);
  return ScaledWeight(w, row, k, scale, WeightOffset(w, row, k));
}

}  // namespace nibble::cpu

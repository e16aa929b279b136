// Rotary position embedding (arXiv 2104.09864) of one token's q and k heads, and the store of its k
// and v in the cache's type.
#pragma once

#include <cstdint>

#include "kernels/cpu/kv_codec_inl.h"
#include "kernels/cpu/row_kernels.h"

namespace nibble::cpu {
namespace {

template <class V>
void RotateInterleaved(float* head, const float* cos_sin, int32_t rotary_dim) {
  int32_t i = 0;
  if constexpr (V::kWidth > 1) {
    for (; i + V::kWidth <= rotary_dim; i += V::kWidth) {
      V::Store(head + i, V::RotatePairs(V::Load(head + i), V::Load(cos_sin + i)));
    }
  }
  for (; i < rotary_dim; i += 2) {
    const float a = head[i], b = head[i + 1];
    head[i] = a * cos_sin[i] - b * cos_sin[i + 1];
    head[i + 1] = b * cos_sin[i] + a * cos_sin[i + 1];
  }
}

template <class V>
void RotateHalf(float* head, const float* cos_sin, int32_t rotary_dim) {
  const int32_t half = rotary_dim / 2;
  int32_t i = 0;
  if constexpr (V::kWidth > 1) {
    for (; i + V::kWidth <= half; i += V::kWidth) {
      typename V::Reg cos, sin;
      V::LoadPairs(cos_sin + 2 * i, &cos, &sin);
      const typename V::Reg a = V::Load(head + i), b = V::Load(head + half + i);
      V::Store(head + i, V::Sub(V::Mul(a, cos), V::Mul(b, sin)));
      V::Store(head + half + i, V::Fma(b, cos, V::Mul(a, sin)));
    }
  }
  for (; i < half; ++i) {
    const float a = head[i], b = head[half + i];
    head[i] = a * cos_sin[2 * i] - b * cos_sin[2 * i + 1];
    head[half + i] = b * cos_sin[2 * i] + a * cos_sin[2 * i + 1];
  }
}

// Writes the codes of x to to[0], to[stride], .. and the row's scale, where the type has one, to
// scales[offset].
template <class Codec>
void StoreHead(const float* x, int32_t head_dim, typename Codec::Code* to, int32_t stride,
               float* scales, int32_t offset) {
  RowScale scale;
  if constexpr (Codec::kScaled) {
    scale = ScaleOfRow(x, head_dim, Codec::kTop);
    scales[offset] = scale.scale;
    if (scale.inverse == 0) {
      for (int32_t d = 0; d < head_dim; ++d) to[int64_t{d} * stride] = 0;
      return;
    }
  }
  constexpr int32_t kChunk = 64;
  typename Codec::Code codes[kChunk];
  for (int32_t d = 0; d < head_dim; d += kChunk) {
    const int32_t n = head_dim - d < kChunk ? head_dim - d : kChunk;
    Codec::Encode(x + d, n, scale.inverse, codes);
    for (int32_t i = 0; i < n; ++i) to[int64_t{d + i} * stride] = codes[i];
  }
}

template <class V, class Codec>
void RopeStore(const RopeStoreRow& row) {
  using Code = typename Codec::Code;
  float* head = row.qkv;
  const int32_t head_dim = row.head_dim, block_size = row.block_size;
  for (int32_t h = 0; h < row.num_heads + row.num_kv_heads; ++h, head += head_dim) {
    if (row.half_layout) {
      RotateHalf<V>(head, row.cos_sin, row.rotary_dim);
    } else {
      RotateInterleaved<V>(head, row.cos_sin, row.rotary_dim);
    }
    const int32_t kv_head = h - row.num_heads;
    if (kv_head < 0) continue;
    Code* k = reinterpret_cast<Code*>(row.k + kv_head * row.head_bytes);
    StoreHead<Codec>(head, head_dim, k + row.offset, block_size,
                     ScalesOf<Codec>(k, block_size, head_dim), row.offset);
  }
  for (int32_t h = 0; h < row.num_kv_heads; ++h, head += head_dim) {
    Code* v = reinterpret_cast<Code*>(row.v + h * row.head_bytes);
    StoreHead<Codec>(head, head_dim, v + int64_t{row.offset} * head_dim, 1,
                     ScalesOf<Codec>(v, block_size, head_dim), row.offset);
  }
}

}  // namespace
}  // namespace nibble::cpu

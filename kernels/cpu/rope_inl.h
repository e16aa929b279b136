// Rotary position embedding (arXiv 2104.09864) of one token's q and k heads, and the store of its k
// and v as f16.
#pragma once

#include <cstdint>

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

template <class V>
void StoreKeyHead(const float* head, int32_t head_dim, uint16_t* block, int32_t block_size,
                  int32_t offset) {
  for (int32_t d = 0; d < head_dim; d += V::kWidth) {
    const int32_t n = head_dim - d < V::kWidth ? head_dim - d : V::kWidth;
    uint16_t halves[V::kWidth];
    V::StoreF16Partial(halves, V::LoadPartial(head + d, n), n);
    for (int32_t i = 0; i < n; ++i) block[int64_t{d + i} * block_size + offset] = halves[i];
  }
}

template <class V>
void RopeStore(const RopeStoreRow& row) {
  float* head = row.qkv;
  const int64_t block_head = int64_t{row.head_dim} * row.block_size;
  for (int32_t h = 0; h < row.num_heads + row.num_kv_heads; ++h, head += row.head_dim) {
    if (row.half_layout) {
      RotateHalf<V>(head, row.cos_sin, row.rotary_dim);
    } else {
      RotateInterleaved<V>(head, row.cos_sin, row.rotary_dim);
    }
    const int32_t kv_head = h - row.num_heads;
    if (kv_head < 0) continue;
    StoreKeyHead<V>(head, row.head_dim, row.k + kv_head * block_head, row.block_size, row.offset);
  }
  for (int32_t h = 0; h < row.num_kv_heads; ++h, head += row.head_dim) {
    uint16_t* to = row.v + h * block_head + int64_t{row.offset} * row.head_dim;
    for (int32_t d = 0; d < row.head_dim; d += V::kWidth) {
      const int32_t n = row.head_dim - d < V::kWidth ? row.head_dim - d : V::kWidth;
      V::StoreF16Partial(to + d, V::LoadPartial(head + d, n), n);
    }
  }
}

}  // namespace
}  // namespace nibble::cpu

// How a head block of the paged cache (KvLayer in kernels/ops.h) holds its tokens on CUDA: the rows
// of its block_size tokens, head_dim elements each, then with 8-bit codes an f32 scale for each row
// (value = code * scale; scale = max|x| / 127 or / 448).
//
// With 8-bit codes rows are read 16 bytes at a time: block_size must be a multiple of 4.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace nibble::cuda {

// KvHeadBytes of kernels/ops.h, for kernels.
template <bool kScaled>
constexpr int64_t HeadBlockBytes(int32_t block_size, int32_t head_dim) {
  return kScaled ? int64_t{block_size} * (head_dim + 4) : int64_t{block_size} * head_dim * 2;
}

constexpr bool IsCodes(DType type) { return type == DType::kI8 || type == DType::kF8E4M3; }

// Whether the attention kernels read such a cache with activations of `dtype`.
constexpr bool HasCacheKernel(DType dtype, DType cache, int32_t block_size) {
  const bool is_half = dtype == DType::kBf16 || dtype == DType::kF16;
  return is_half && block_size > 0 && (cache == dtype || (IsCodes(cache) && block_size % 4 == 0));
}

}  // namespace nibble::cuda

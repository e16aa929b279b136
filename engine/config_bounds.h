// Bounds of what is believed of a model's shape, whatever file says it: each is several times the
// largest model in the wild.
#pragma once

#include <cstdint>

namespace nibble {

inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxVocab = 1 << 21;
inline constexpr int64_t kMaxWidth = 1 << 20;  // hidden, ffn, heads * head_dim
inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 4096;
inline constexpr int64_t kMaxContext = 1 << 27;

}  // namespace nibble

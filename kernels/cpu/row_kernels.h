// The small ops of the CPU backend on one row, as a table of functions for each instruction set.
// The table's code is written once (*_inl.h) and compiled once for each (row_kernels_*.cc);
// cpu_backend.cc picks a table at start.
//
// Every reduction runs in an order fixed by the row's length, so a row's result never depends on
// its neighbours.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention.h"
#include "kernels/tensor.h"

namespace nibble::cpu {

// One token's row of RopeStoreKvParams, its cache slot resolved.
struct RopeStoreRow {
  float* qkv = nullptr;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t rotary_dim = 0;
  bool half_layout = false;        // RopeLayout::kHalf
  const float* cos_sin = nullptr;  // [rotary_dim], of the row's position
  uint8_t* k = nullptr;            // the slot's block: [num_kv_heads] of codes
                                   // [head_dim, block_size], then f32 scales [block_size] if any
  uint8_t* v = nullptr;            // as k, codes [block_size, head_dim]
  int64_t head_bytes = 0;          // KvHeadBytes: from one kv head to the next
  int32_t block_size = 0;
  int32_t offset = 0;  // of the slot in its block
};

// What depends on the type of the KV cache.
struct KvKernels {
  void (*rope_store)(const RopeStoreRow& row);
  AttendSplitFn attend_split;
};

inline constexpr int32_t kSoftmaxRun = 256;

struct RowKernels {
  // out = x / sqrt(mean(x^2) + epsilon) * weight; with residual (may be null): residual += x is
  // what is normalized.
  void (*rms_norm)(const float* x, float* residual, const float* weight, float epsilon, int32_t n,
                   float* out);
  // out[r * out_stride + i] = silu(gate[r * stride + i]) * up[r * stride + i] for i < cols. Rows of
  // sixteen columns in one call: a call for each would cost more than they do.
  void (*gated)(const float* gate, const float* up, int64_t stride, int32_t rows, int32_t cols,
                float* out, int64_t out_stride);
  FoldSplitFn fold_split;
  WeightedMeanFn weighted_mean;

  // Largest of x [n]; *nan says whether any is NaN (the largest is then not defined).
  float (*max)(const float* x, int32_t n, bool* nan);
  // First i with x[i] == value; n when there is none.
  int32_t (*find)(const float* x, int32_t n, float value);
  // First i >= from with x[i] > value; n when there is none.
  int32_t (*find_greater)(const float* x, int32_t from, int32_t n, float value);
  // p[i] = exp((x[i] - max) / temperature), run_sums[j] = the sum of run j (kSoftmaxRun neighbours,
  // in f32); returns the sum of run_sums in f64. p and run_sums may be null.
  double (*softmax)(const float* x, int32_t n, float max, float temperature, float* p,
                    float* run_sums);

  KvKernels f16, bf16, i8, e4m3;

  // REQUIRES: a type a cache may have.
  const KvKernels& ForCache(DType type) const {
    switch (type) {
      case DType::kBf16:
        return bf16;
      case DType::kI8:
        return i8;
      case DType::kF8E4M3:
        return e4m3;
      default:
        return f16;
    }
  }
};

extern const RowKernels kScalarRowKernels;
extern const RowKernels kAvx2RowKernels;    // needs AVX2, FMA, F16C
extern const RowKernels kAvx512RowKernels;  // needs AVX-512 F, BW, DQ, VL
// The same, but attention multiplies in bf16; and needs AVX-512-BF16.
extern const RowKernels kAvx512Bf16RowKernels;
extern const RowKernels
    kNeonRowKernels;  // needs arm64; empty elsewhere, as the three above are on arm64

}  // namespace nibble::cpu

// RoPE and the store into caches of 8-bit codes: a warp a head, which finds its row's scale.
#include <cstdint>

#include "kernels/cuda/cache_codes.cuh"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.h"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLanePairs = 4;  // of elements, so that heads have at most 256
// Rows whose largest magnitude is less are stored as zeros: the inverse of their scale is no f32.
constexpr float kSmallestRow = 1e-30f;

template <class Half>
__device__ __forceinline__ uint16_t Round(float x) {
  return static_cast<uint16_t>(Half::Pack(x, 0.0f));
}

// The elements that a lane's pair holds.
struct Pair {
  int i, j;
  bool rotates;

  __device__ __forceinline__ Pair(const RopeStoreCall& p, int pair, bool is_v) {
    rotates = !is_v && pair < p.rotary_dim / 2;
    const bool halves = p.half_layout && rotates;
    i = halves ? pair : 2 * pair;
    j = halves ? pair + p.rotary_dim / 2 : 2 * pair + 1;
  }
};

// What a row's values are multiplied by to become codes (in units of kEncodeUnit), and codes to
// become values, as ScaleOfRow in kernels/cpu/kv_codec_inl.h.
template <class Codes>
__device__ __forceinline__ void ScaleOfRow(uint32_t largest, float& inverse, float& scale) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const uint32_t other = ptx::ShuffleXor(largest, lanes);
    largest = other > largest ? other : largest;
  }
  const float max = ptx::FloatOfBits(largest);
  inverse = 0;
  scale = 0;
  if (largest >= 0x7F800000u) {  // magnitudes compare as their bits do, infinity and NaN above all
    scale = ptx::FloatOfBits(0x7FC00000u);
  } else if (max >= kSmallestRow) {
    inverse = Codes::kLargest * Codes::kEncodeUnit / max;
    scale = max / Codes::kLargest;
  }
}

template <class Half, class Codes>
__global__ void __launch_bounds__(kThreads) RopeStoreCodes(const RopeStoreCall p) {
  const int token = blockIdx.x, lane = threadIdx.x % 32, pairs = p.head_dim / 2;
  const int num_heads = p.num_heads + 2 * p.num_kv_heads;
  const int slot = p.slots[token], row_in_block = slot % p.block_size;
  auto* row = static_cast<uint16_t*>(p.qkv) + static_cast<int64_t>(token) * p.qkv_stride;
  const float* angles = p.cos_sin + static_cast<int64_t>(p.positions[token]) * p.rotary_dim;
  for (int head = static_cast<int>(threadIdx.x) / 32; head < num_heads; head += kWarps) {
    const bool is_v = head >= p.num_heads + p.num_kv_heads;
    uint16_t* x = row + head * p.head_dim;
    float a[kLanePairs], b[kLanePairs];
    uint32_t largest = 0;
#pragma unroll
    for (int n = 0; n < kLanePairs; ++n) {
      const int pair = n * 32 + lane;
      if (pair >= pairs) continue;
      const Pair at(p, pair, is_v);
      a[n] = Half::ToFloat(x[at.i]);
      b[n] = Half::ToFloat(x[at.j]);
      if (at.rotates) {
        const float cos = angles[2 * pair], sin = angles[2 * pair + 1], before = a[n];
        a[n] = before * cos - b[n] * sin;
        b[n] = b[n] * cos + before * sin;
        x[at.i] = Round<Half>(a[n]);
        x[at.j] = Round<Half>(b[n]);
      }
      const uint32_t of_a = ptx::BitsOfFloat(a[n]) & 0x7FFFFFFFu,
                     of_b = ptx::BitsOfFloat(b[n]) & 0x7FFFFFFFu;
      const uint32_t larger = of_a > of_b ? of_a : of_b;
      largest = larger > largest ? larger : largest;
    }
    if (head < p.num_heads) continue;
    float inverse, scale;
    ScaleOfRow<Codes>(largest, inverse, scale);
    const int kv_head = head - p.num_heads - (is_v ? p.num_kv_heads : 0);
    uint8_t* head_block = static_cast<uint8_t*>(is_v ? p.v : p.k) +
                          (static_cast<int64_t>(slot / p.block_size) * p.num_kv_heads + kv_head) *
                              HeadBlockBytes<true>(p.block_size, p.head_dim);
    uint8_t* to = head_block + row_in_block * p.head_dim;
#pragma unroll
    for (int n = 0; n < kLanePairs; ++n) {
      const int pair = n * 32 + lane;
      if (pair >= pairs) continue;
      const Pair at(p, pair, is_v);
      // A row that is all zeros, or not finite: no product with what it holds.
      const uint8_t code_a = inverse == 0 ? 0 : Codes::Encode(ptx::Multiply(a[n], inverse));
      const uint8_t code_b = inverse == 0 ? 0 : Codes::Encode(ptx::Multiply(b[n], inverse));
      if (at.j == at.i + 1) {
        *reinterpret_cast<uint16_t*>(to + at.i) = static_cast<uint16_t>(code_a | code_b << 8);
      } else {
        to[at.i] = code_a;
        to[at.j] = code_b;
      }
    }
    if (lane == 0)
      reinterpret_cast<float*>(head_block + p.block_size * p.head_dim)[row_in_block] = scale;
  }
}

template <class Half>
auto* KernelFor(DType cache) {
  return cache == DType::kI8 ? RopeStoreCodes<Half, I8Codes> : RopeStoreCodes<Half, E4m3Codes>;
}

}  // namespace

cudaError_t StartRopeStoreCodes(const RopeStoreCall& call, cudaStream_t stream) {
  if (call.block_size % 4 != 0 || call.head_dim > 64 * kLanePairs) return cudaErrorInvalidValue;
  auto* kernel = call.dtype == DType::kBf16 ? KernelFor<Bf16>(call.cache_dtype)
                                            : KernelFor<F16>(call.cache_dtype);
  return Launch(kernel, {dim3(static_cast<uint32_t>(call.tokens)), dim3(kThreads), 0, stream},
                call);
}

}  // namespace nibble::cuda

#include <cstdint>

#include "kernels/cuda/half_type.cuh"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.h"

namespace nibble::cuda {

cudaError_t StartRopeStoreCodes(const RopeStoreCall& call, cudaStream_t stream);  // rope_codes.cu

namespace {

constexpr int kThreads = 256;

template <class Half>
__device__ __forceinline__ uint16_t Round(float x) {
  return static_cast<uint16_t>(Half::Pack(x, 0.0f));
}

// A thread a pair of elements: of q and k rotated, of v and past rotary_dim as they are.
template <class Half, class CacheHalf>
__global__ void __launch_bounds__(kThreads) RopeStore(const RopeStoreCall p) {
  const int token = blockIdx.x, pairs = p.head_dim / 2, rotated = p.rotary_dim / 2;
  const int num_heads = p.num_heads + 2 * p.num_kv_heads;
  const int slot = p.slots[token], slot_block = slot / p.block_size;
  auto* row = static_cast<uint16_t*>(p.qkv) + static_cast<int64_t>(token) * p.qkv_stride;
  const float* angles = p.cos_sin + static_cast<int64_t>(p.positions[token]) * p.rotary_dim;
  for (int at = static_cast<int>(threadIdx.x); at < num_heads * pairs; at += kThreads) {
    const int head = at / pairs, pair = at % pairs;
    const bool is_v = head >= p.num_heads + p.num_kv_heads, rotates = !is_v && pair < rotated;
    const int i = p.half_layout && rotates ? pair : 2 * pair;
    const int j = p.half_layout && rotates ? pair + rotated : 2 * pair + 1;
    uint16_t* x = row + head * p.head_dim;
    float a = Half::ToFloat(x[i]), b = Half::ToFloat(x[j]);
    if (rotates) {
      const float cos = angles[2 * pair], sin = angles[2 * pair + 1], before = a;
      a = before * cos - b * sin;
      b = b * cos + before * sin;
      x[i] = Round<Half>(a);
      x[j] = Round<Half>(b);
    }
    if (head < p.num_heads) continue;
    const int kv_head = head - p.num_heads - (is_v ? p.num_kv_heads : 0);
    const int64_t cached =
        (static_cast<int64_t>(slot_block) * p.num_kv_heads + kv_head) * p.block_size +
        slot % p.block_size;
    uint16_t* to = static_cast<uint16_t*>(is_v ? p.v : p.k) + cached * p.head_dim;
    to[i] = Round<CacheHalf>(a);
    to[j] = Round<CacheHalf>(b);
  }
}

bool IsHalf(DType type) { return type == DType::kBf16 || type == DType::kF16; }

template <class Half>
auto* KernelFor(DType cache) {
  return cache == DType::kBf16 ? RopeStore<Half, Bf16> : RopeStore<Half, F16>;
}

}  // namespace

cudaError_t LaunchRopeStore(const RopeStoreCall& call, cudaStream_t stream) {
  const bool is_even = call.head_dim % 2 == 0 && call.rotary_dim % 2 == 0;
  if (!is_even || call.rotary_dim > call.head_dim || call.rotary_dim < 0 || call.tokens < 1 ||
      call.block_size < 1 || !IsHalf(call.dtype) ||
      !(IsHalf(call.cache_dtype) || IsCodes(call.cache_dtype))) {
    return cudaErrorInvalidValue;
  }
  if (IsCodes(call.cache_dtype)) return StartRopeStoreCodes(call, stream);
  auto* kernel = call.dtype == DType::kBf16 ? KernelFor<Bf16>(call.cache_dtype)
                                            : KernelFor<F16>(call.cache_dtype);
  return Launch(kernel, {dim3(static_cast<uint32_t>(call.tokens)), dim3(kThreads), 0, stream},
                call);
}

}  // namespace nibble::cuda

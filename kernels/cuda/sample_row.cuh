// What drawing a token (sample.h) asks of one row of logits, by a whole block. Every function that
// folds is called by all of its threads and returns the same to each.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr float kNever = -__builtin_inff();
constexpr float kLargest = 0x1.fffffep127f;
constexpr float kWeightUnit = 0x1p44f;  // of fixed-point weights: 2^19 of them fit 64 bits

struct Exchange {
  uint64_t words[3][kWarps];
};

// --- over the block

__device__ __forceinline__ uint64_t Shuffle(uint64_t x, int lane_mask) {
  const uint32_t low = ptx::ShuffleXor(static_cast<uint32_t>(x), lane_mask);
  const uint32_t high = ptx::ShuffleXor(static_cast<uint32_t>(x >> 32), lane_mask);
  return uint64_t{high} << 32 | low;
}

// The sums of lanes below this one, and of all, in `total`.
__device__ __forceinline__ uint64_t ScanWarp(uint64_t own, uint64_t* total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint64_t below = 0, sum = own;  // of the lanes that share the bits above this one's
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
    const uint64_t other = Shuffle(sum, bit);
    if ((lane & bit) != 0) below += other;
    sum += other;
  }
  *total = sum;
  return below;
}

// The same of threads.
__device__ __forceinline__ uint64_t ScanBlock(uint64_t own, uint64_t* total) {
  Exchange& exchange = SharedMemory<Exchange>();
  const int own_warp = static_cast<int>(threadIdx.x) / 32;
  uint64_t of_warp = 0, below = ScanWarp(own, &of_warp);
  ptx::SyncThreads();  // what was exchanged before has been read
  if (threadIdx.x % 32 == 0) exchange.words[0][own_warp] = of_warp;
  ptx::SyncThreads();
  *total = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp < own_warp) below += exchange.words[0][warp];
    *total += exchange.words[0][warp];
  }
  return below;
}

// Folds every thread's values with `fold`, which must not care for the order.
template <int kValues, class Fold>
__device__ __forceinline__ void FoldBlock(uint64_t (&values)[kValues], Fold fold) {
  Exchange& exchange = SharedMemory<Exchange>();
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2)
      values[i] = fold(values[i], Shuffle(values[i], lanes));
  }
  ptx::SyncThreads();  // what was exchanged before has been read
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) exchange.words[i][threadIdx.x / 32] = values[i];
  }
  ptx::SyncThreads();
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    values[i] = exchange.words[i][0];
    for (int warp = 1; warp < kWarps; ++warp) values[i] = fold(values[i], exchange.words[i][warp]);
  }
}

__device__ __forceinline__ uint64_t Sum(uint64_t a, uint64_t b) { return a + b; }
__device__ __forceinline__ uint64_t Larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// --- the largest logit

// Bits that compare as the floats do, NaN left out.
__device__ __forceinline__ uint32_t KeyOf(float x) {
  const uint32_t bits = ptx::BitsOfFloat(x + 0.0f);  // -0 becomes 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float FloatOfKey(uint32_t key) {
  return ptx::FloatOfBits((key >> 31) != 0 ? key & 0x7FFFFFFFu : ~key);
}

// Ids in the order of falling logits, rising ids: the first has the largest number; none has 0.
__device__ __forceinline__ uint64_t OrderOf(float logit, int32_t id) {
  return uint64_t{KeyOf(logit)} << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ float LogitOf(uint64_t order) {
  return FloatOfKey(static_cast<uint32_t>(order >> 32));
}
__device__ __forceinline__ int32_t IdOf(uint64_t order) {
  return static_cast<int32_t>(~static_cast<uint32_t>(order));
}

struct Best {
  uint64_t order = 0;  // 0: there is none
  uint64_t nan = 0;    // 1: a NaN is among them

  __device__ __forceinline__ bool IsFinite() const {
    const float logit = LogitOf(order);
    return order != 0 && nan == 0 && logit != kNever && logit != __builtin_inff();
  }
};

// Calls f(id, logit) for ids begin .. end - 1, each by one thread, several loads ahead.
template <class F>
__device__ __forceinline__ void ForEachLogit(const float* logits, int begin, int end, F f) {
  constexpr int kAhead = 8;
  for (int first = begin + static_cast<int>(threadIdx.x); first < end; first += kAhead * kThreads) {
    float x[kAhead] = {};
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kThreads < end) x[i] = logits[first + i * kThreads];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i * kThreads < end) f(first + i * kThreads, x[i]);
    }
  }
}

// The best of ids begin .. end - 1 below `after`.
__device__ __forceinline__ Best BestBelow(const float* logits, int begin, int end, uint64_t after) {
  uint64_t found[2] = {0, 0};
  ForEachLogit(logits, begin, end, [&](int id, float x) {
    if (x != x) found[1] = 1;
    const uint64_t order = OrderOf(x, id);
    if (order < after && order > found[0]) found[0] = order;
  });
  FoldBlock(found, Larger);
  return {found[0], found[1]};
}

// --- probabilities

// A row to draw from, without a NaN and with a finite maximum.
struct Row {
  const float* logits;
  int32_t size;
  float max;
  float scale;  // of logits to exponents of 2

  __device__ __forceinline__ Row(const float* of, int32_t size_of, float largest, float temperature)
      : logits(of), size(size_of), max(largest), scale(1.4426950408889634f / temperature) {
    scale = scale < kLargest ? scale : kLargest;  // so that the largest's exponent is 0
  }
  // Relative to the largest, which is 1.
  __device__ __forceinline__ float WeightOf(float logit) const {
    return ptx::Exp2((logit - max) * scale);
  }
};

// Of fixed point.
__device__ __forceinline__ uint64_t FixedOf(float weight) {
  return static_cast<uint64_t>(weight * kWeightUnit);
}

// Which ids survive: those of a larger key, and of the equal ones those up to an id.
struct Cut {
  uint32_t key = 0;
  int32_t last_equal = 0x7FFFFFFF;
  float min_weight = 0;  // min_p; the largest logit survives it

  __device__ __forceinline__ bool Keeps(uint32_t other, int32_t id) const {
    return other > key || (other == key && id <= last_equal);
  }
};

// The cut that keeps what comes no later.
__device__ __forceinline__ Cut CutAfter(uint64_t order) {
  Cut cut;
  cut.key = static_cast<uint32_t>(order >> 32);
  cut.last_equal = IdOf(order);
  return cut;
}

// The weight of an id that the cut keeps, else 0.
__device__ __forceinline__ uint64_t MassOf(const Row& row, const Cut& cut, int32_t id, float x) {
  if (!cut.Keeps(KeyOf(x), id)) return 0;
  const float weight = row.WeightOf(x);
  return weight < cut.min_weight && x != row.max ? 0 : FixedOf(weight);
}

__device__ __forceinline__ uint64_t SumOfMasses(const Row& row, const Cut& cut, int begin,
                                                int end) {
  uint64_t mass[1] = {0};
  ForEachLogit(row.logits, begin, end,
               [&](int id, float x) { mass[0] += MassOf(row, cut, id, x); });
  FoldBlock(mass, Sum);
  return mass[0];
}

// The least mass that has `share` of `mass`; at least that of the likeliest.
__device__ __forceinline__ uint64_t ShareOf(uint64_t mass, float share) {
  const auto needed = static_cast<uint64_t>(static_cast<double>(mass) * share);
  return needed < 1 ? 1 : needed;
}

// --- cuts by going over the row again and again (sample_ranks.cuh says when)

struct Sums {
  uint64_t count, mass;
};

__device__ __forceinline__ Sums SumOf(const Row& row, const Cut& cut) {
  uint64_t sums[2] = {0, 0};
  ForEachLogit(row.logits, 0, row.size, [&](int id, float x) {
    if (!cut.Keeps(KeyOf(x), id)) return;
    sums[0] += 1;
    sums[1] += FixedOf(row.WeightOf(x));
  });
  FoldBlock(sums, Sum);
  return {sums[0], sums[1]};
}

// The largest key such that what `within` keeps at or above it reaches `needed`: a count, or a
// mass. REQUIRES that all of it does.
template <bool kMass>
__device__ __forceinline__ uint32_t KeyThatReaches(const Row& row, const Cut& within,
                                                   uint64_t needed) {
  uint32_t key = 0;
  for (int shift = 30; shift >= 0; shift -= 2) {
    uint64_t reached[3] = {0, 0, 0};  // at key + 1, 2 and 3 steps
    ForEachLogit(row.logits, 0, row.size, [&](int id, float x) {
      const uint32_t at = KeyOf(x);
      if (at < key || !within.Keeps(at, id)) return;
      const uint32_t steps = (at - key) >> shift;
      const uint64_t part = kMass ? FixedOf(row.WeightOf(x)) : 1;
#pragma unroll
      for (uint32_t step = 0; step < 3; ++step) reached[step] += steps > step ? part : 0;
    });
    FoldBlock(reached, Sum);
    for (int step = 2; step >= 0; --step) {
      if (reached[step] < needed) continue;
      key += static_cast<uint32_t>(step + 1) << shift;
      break;
    }
  }
  return key;
}

// How many logits equal `key`, up to an id.
__device__ __forceinline__ uint64_t CountEqual(const Row& row, uint32_t key, int32_t last) {
  uint64_t count[1] = {0};
  ForEachLogit(row.logits, 0, last + 1, [&](int, float x) { count[0] += KeyOf(x) == key ? 1 : 0; });
  FoldBlock(count, Sum);
  return count[0];
}

// The cut at `key` that keeps the first `wanted` (at least one) of the logits that equal it.
__device__ __forceinline__ Cut CutAt(const Row& row, uint32_t key, uint64_t wanted) {
  Cut cut;
  cut.key = key;
  if (CountEqual(row, key, row.size - 1) <= wanted) return cut;
  int32_t low = 0, high = row.size - 1;  // the least id up to which there are as many
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (CountEqual(row, key, middle) >= wanted) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  cut.last_equal = low;
  return cut;
}

__device__ __forceinline__ Cut CutByCount(const Row& row, uint64_t count) {
  const uint32_t key = KeyThatReaches<false>(row, Cut{}, count);
  return CutAt(row, key, count - SumOf(row, Cut{key + 1}).count);
}

// The least of the likeliest ids that `within` keeps whose share of its mass is `share`.
__device__ __forceinline__ Cut CutByMass(const Row& row, const Cut& within, float share) {
  const uint64_t needed = ShareOf(SumOf(row, within).mass, share);
  const uint32_t key = KeyThatReaches<true>(row, within, needed);
  const uint64_t left = needed - SumOf(row, Cut{key + 1}).mass;  // no key is the largest number
  const uint64_t each = FixedOf(row.WeightOf(FloatOfKey(key)));
  const Cut cut = CutAt(row, key, (left + each - 1) / each);
  const bool is_wider = key == within.key && cut.last_equal > within.last_equal;
  return is_wider ? within : cut;
}

// --- the uniform number

// Philox4x32-10 (Salmon et al., SC11) of (counter, key), as kernels/cpu/sample_philox.h: the first
// 53 bits.
__device__ __forceinline__ uint64_t UniformBits(uint64_t key, uint64_t position) {
  uint32_t c[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  uint32_t k[2] = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c[0], b = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t first = static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0];
    const uint32_t third = static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1];
    c[0] = first;
    c[1] = static_cast<uint32_t>(b);
    c[2] = third;
    c[3] = static_cast<uint32_t>(a);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return (uint64_t{c[0]} << 32 | c[1]) >> 11;
}

}  // namespace
}  // namespace nibble::cuda

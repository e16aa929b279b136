// The passes over one row of logits that drawing a token needs (sample.h), by a whole block. Every
// function here is called by all of its threads and returns the same to each.
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

struct Best {
  float logit = __builtin_inff();
  int32_t id = -1;
  bool nan = false;

  __device__ __forceinline__ bool IsFinite() const {
    return id >= 0 && !nan && logit != kNever && logit != __builtin_inff();
  }
};

// The largest logit after `last` in the order of falling logits and rising ids; id -1 where there
// is none. The first is the one after {}.
__device__ __forceinline__ Best BestAfter(const float* logits, int32_t size, const Best& last) {
  uint64_t found[2] = {0, 0};  // the key, then ids falling; whether there is a NaN
  const uint64_t after = last.id < 0
                             ? ~uint64_t{0}
                             : uint64_t{KeyOf(last.logit)} << 32 | ~static_cast<uint32_t>(last.id);
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    const float x = logits[i];
    if (x != x) found[1] = 1;
    const uint64_t at = uint64_t{KeyOf(x)} << 32 | ~static_cast<uint32_t>(i);
    if (at < after && at > found[0]) found[0] = at;
  }
  FoldBlock(found, Larger);
  Best best;
  best.nan = found[1] != 0;
  if (found[0] == 0) return best;
  best.id = static_cast<int32_t>(~static_cast<uint32_t>(found[0]));
  best.logit = FloatOfKey(static_cast<uint32_t>(found[0] >> 32));
  return best;
}

// --- probabilities

// A row to draw from, without a NaN and with a finite maximum.
struct Row {
  const float* logits;
  int32_t size;
  float max, temperature;

  // Relative to the largest, which is 1.
  __device__ __forceinline__ float WeightOf(float logit) const {
    constexpr float kLog2E = 1.4426950408889634f;
    return ptx::Exp2((logit - max) / temperature * kLog2E);
  }
};

// Which ids survive: those of a larger key, and of the equal ones those up to an id.
struct Cut {
  uint32_t key = 0;
  int32_t last_equal = 0x7FFFFFFF;
  float min_weight = 0;  // min_p; the largest logit survives it

  __device__ __forceinline__ bool Keeps(uint32_t other, int32_t id) const {
    return other > key || (other == key && id <= last_equal);
  }
};

struct Sums {
  uint64_t count, mass;
};

__device__ __forceinline__ uint64_t FixedOf(float weight) {
  return static_cast<uint64_t>(weight * kWeightUnit);
}

__device__ __forceinline__ Sums SumOf(const Row& row, const Cut& cut) {
  uint64_t sums[2] = {0, 0};
  for (int i = static_cast<int>(threadIdx.x); i < row.size; i += kThreads) {
    const float x = row.logits[i];
    if (!cut.Keeps(KeyOf(x), i)) continue;
    sums[0] += 1;
    sums[1] += FixedOf(row.WeightOf(x));
  }
  FoldBlock(sums, Sum);
  return {sums[0], sums[1]};
}

// --- cuts

// The largest key such that what `within` keeps at or above it reaches `needed`: a count, or a
// mass. REQUIRES that all of it does.
template <bool kMass>
__device__ __forceinline__ uint32_t KeyThatReaches(const Row& row, const Cut& within,
                                                   uint64_t needed) {
  uint32_t key = 0;
  for (int shift = 30; shift >= 0; shift -= 2) {
    uint64_t reached[3] = {0, 0, 0};  // at key + 1, 2 and 3 steps
    for (int i = static_cast<int>(threadIdx.x); i < row.size; i += kThreads) {
      const float x = row.logits[i];
      const uint32_t at = KeyOf(x);
      if (at < key || !within.Keeps(at, i)) continue;
      const uint32_t steps = (at - key) >> shift;
      const uint64_t part = kMass ? FixedOf(row.WeightOf(x)) : 1;
#pragma unroll
      for (uint32_t step = 0; step < 3; ++step) reached[step] += steps > step ? part : 0;
    }
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
  for (int i = static_cast<int>(threadIdx.x); i <= last && i < row.size; i += kThreads)
    count[0] += KeyOf(row.logits[i]) == key ? 1 : 0;
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
  const Sums all = SumOf(row, within);
  uint64_t needed = static_cast<uint64_t>(static_cast<double>(all.mass) * share);
  if (needed < 1) needed = 1;  // at least the likeliest
  const uint32_t key = KeyThatReaches<true>(row, within, needed);
  const uint64_t left = needed - SumOf(row, Cut{key + 1}).mass;  // no key is the largest number
  const uint64_t each = FixedOf(row.WeightOf(FloatOfKey(key)));
  const Cut cut = CutAt(row, key, (left + each - 1) / each);
  const bool is_wider = key == within.key && cut.last_equal > within.last_equal;
  return is_wider ? within : cut;
}

// --- the draw

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

// The weight of an id that the cut keeps, else 0.
__device__ __forceinline__ uint64_t MassAt(const Row& row, const Cut& cut, int32_t id) {
  if (id >= row.size) return 0;
  const float x = row.logits[id];
  if (!cut.Keeps(KeyOf(x), id)) return 0;
  const float weight = row.WeightOf(x);
  return weight < cut.min_weight && x != row.max ? 0 : FixedOf(weight);
}

// The first id at which the masses of lanes 0 .. lane of a tile of 32, and those before, pass the
// target: tiles ascending, by one warp.
__device__ __forceinline__ int32_t Walk(const Row& row, const Cut& cut, int32_t begin,
                                        uint64_t before, uint64_t target) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int32_t first = begin; first < row.size; first += 32) {
    const uint64_t own = MassAt(row, cut, first + lane);
    uint64_t below = 0, total = own;  // of the lanes that share the bits above this one's
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
      const uint64_t other = Shuffle(total, bit);
      if ((lane & bit) != 0) below += other;
      total += other;
    }
    if (before + total > target) {
      const bool passes = before + below <= target && before + below + own > target;
      uint32_t found = passes ? static_cast<uint32_t>(first + lane) : 0;
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) found |= ptx::ShuffleXor(found, lanes);
      return static_cast<int32_t>(found);
    }
    before += total;
  }
  return row.size - 1;  // not reached: the target is below the sum
}

// Inverse CDF over what the cut keeps, ids ascending.
__device__ __forceinline__ int32_t Draw(const Row& row, const Cut& cut, uint64_t seed,
                                        uint64_t counter) {
  Exchange& exchange = SharedMemory<Exchange>();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int32_t of_warp = (row.size + kThreads - 1) / kThreads * 32;  // neighbours, whole tiles
  uint64_t mass = 0;
  for (int32_t i = warp * of_warp + lane; i < (warp + 1) * of_warp; i += 32)
    mass += MassAt(row, cut, i);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) mass += Shuffle(mass, lanes);
  ptx::SyncThreads();
  if (lane == 0) exchange.words[0][warp] = mass;
  ptx::SyncThreads();
  uint64_t total = 0;
  for (int i = 0; i < kWarps; ++i) total += exchange.words[0][i];
  const auto target = static_cast<uint64_t>(
      static_cast<unsigned __int128>(UniformBits(seed, counter)) * total >> 53);
  uint64_t before = 0;
  int which = 0;
  while (which + 1 < kWarps && before + exchange.words[0][which] <= target)
    before += exchange.words[0][which++];
  if (warp == which) {
    const int32_t id = Walk(row, cut, which * of_warp, before, target);
    if (lane == 0) exchange.words[1][0] = static_cast<uint64_t>(id);
  }
  ptx::SyncThreads();
  return static_cast<int32_t>(exchange.words[1][0]);
}

}  // namespace
}  // namespace nibble::cuda

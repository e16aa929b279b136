// The end of a draw (sample.h), by one block a row: the exact cut among the candidates of
// sample_slices.cuh, what it keeps of each slice, and the id at which the sum of that, ids
// ascending, passes the uniform number.
#pragma once

#include <cstdint>

#include "kernels/cuda/sample_slices.cuh"

namespace nibble::cuda {
namespace {

constexpr int kMostRanked = 2048;           // candidates of a row
constexpr int kRounds = kSlice / kThreads;  // in which a block goes over a slice
constexpr int kCells = kRounds * kWarps;    // of 32 neighbours of a slice

struct Ranking : Exchange {
  uint64_t orders[kMostRanked];
  uint64_t cells[kCells];
  uint64_t masses[kMostSlices];
  uint64_t found;
};

// --- the cut

// Bitonic sort (Batcher 1968) of `size` numbers, a power of two: the largest first.
__device__ __forceinline__ void SortFalling(uint64_t* numbers, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int first = 2 * i - (i & (apart - 1));
        uint64_t& a = numbers[first];
        uint64_t& b = numbers[first + apart];
        const uint64_t x = a, y = b;
        if ((x < y) == ((first & run) == 0)) {
          a = y;
          b = x;
        }
      }
      ptx::SyncThreads();
    }
  }
}

// Brings all candidates to `orders`, best first. REQUIRES at most kMostRanked of them, and of no
// slice more than are listed.
__device__ __forceinline__ void RankCandidates(const SampleCall& p, const Row& row, int num,
                                               Ranking& ranking) {
  const RowState& state = StateOf(p);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int size = 2;
  while (size < num) size *= 2;
  for (int slice = warp; slice < SlicesOf(p.vocab_size); slice += kWarps) {
    const int32_t* candidates = CandidatesOf(p, slice);
    int first = 0;
    for (int i = 0; i < slice; ++i) first += state.num_candidates[i];
    for (int i = lane; i < state.num_candidates[slice]; i += 32)
      ranking.orders[first + i] = OrderOf(row.logits[candidates[i]], candidates[i]);
  }
  for (int i = num + static_cast<int>(threadIdx.x); i < size; i += kThreads) ranking.orders[i] = 0;
  ptx::SyncThreads();
  SortFalling(ranking.orders, size);
}

// The last of the ranked candidates that the cuts keep.
__device__ __forceinline__ uint64_t LastKept(const SampleSettings& settings, const Row& row,
                                             const CutBins& cut, int num, Ranking& ranking) {
  constexpr int kOwn = kMostRanked / kThreads;
  const int first = static_cast<int>(threadIdx.x) * kOwn;
  const Bins bins(row);
  int last = num - 1;        // of what top_k keeps
  uint64_t before[1] = {0};  // candidates of bins before top_k's
  if (cut.counted < kBins) {
    for (int i = first; i < first + kOwn && i < num; ++i)
      before[0] += bins.Of(LogitOf(ranking.orders[i])) < cut.counted ? 1 : 0;
    FoldBlock(before, Sum);
    last =
        static_cast<int>(before[0] + static_cast<uint64_t>(settings.top_k) - cut.count_before) - 1;
  }
  if (settings.top_p >= 1) return ranking.orders[last];

  uint64_t own = 0, of_bin[1] = {0}, mass[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const bool kept = first + i <= last;
    mass[i] = kept ? FixedOf(row.WeightOf(LogitOf(ranking.orders[first + i]))) : 0;
    own += mass[i];
    if (cut.counted < kBins && static_cast<uint64_t>(first + i) >= before[0]) of_bin[0] += mass[i];
  }
  FoldBlock(of_bin, Sum);
  const uint64_t needed = ShareOf(cut.mass_before + of_bin[0], settings.top_p);
  uint64_t total = 0, sum = cut.mass_before_low + ScanBlock(own, &total);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (sum < needed && needed <= sum + mass[i]) ranking.found = ranking.orders[first + i];
    sum += mass[i];
  }
  ptx::SyncThreads();
  return ranking.found;
}

// Both cuts by going over the row: where too many logits are nearly equal for a list.
__device__ __forceinline__ Cut FindCut(const SampleCall& p, const SampleSettings& settings,
                                       const Row& row) {
  Cut cut;
  if (HasTopK(p, settings)) cut = CutByCount(row, static_cast<uint64_t>(settings.top_k));
  if (settings.top_p < 1) cut = CutByMass(row, cut, settings.top_p);
  return cut;
}

// The cut of a row that has one, and in `masses` what it keeps of each slice.
__device__ __forceinline__ Cut TakeCut(const SampleCall& p, const SampleSettings& settings,
                                       const Row& row, Ranking& ranking) {
  const RowState& state = StateOf(p);
  const int slices = SlicesOf(p.vocab_size);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int num = 0;
  bool is_listed = true;
  for (int i = 0; i < slices; ++i) {
    num += state.num_candidates[i];
    is_listed = is_listed && state.num_candidates[i] <= kMostCandidates;
  }
  Cut cut;
  if (is_listed && num <= kMostRanked) {
    if (num > 0) {
      RankCandidates(p, row, num, ranking);
      cut = CutAfter(LastKept(settings, row, state.cut, num, ranking));
    }
    cut.min_weight = settings.min_p;
    for (int slice = warp; slice < slices; slice += kWarps) {
      const int32_t* candidates = CandidatesOf(p, slice);
      uint64_t mass = 0;
      for (int i = lane; i < state.num_candidates[slice]; i += 32)
        mass += MassOf(row, cut, candidates[i], row.logits[candidates[i]]);
      ScanWarp(mass, &mass);
      if (lane == 0) ranking.masses[slice] = state.mass[slice] + mass;
    }
    return cut;
  }
  cut = FindCut(p, settings, row);
  cut.min_weight = settings.min_p;
  for (int slice = 0; slice < slices; ++slice) {
    const Slice ids(p, slice);
    const uint64_t mass = SumOfMasses(row, cut, ids.begin, ids.end);
    if (threadIdx.x == 0) ranking.masses[slice] = mass;
  }
  return cut;
}

// --- the draw

// The lane at which the sum of lanes' masses on top of `before` passes the target, and the sum
// until there. REQUIRES that there is one.
struct Passed {
  int lane;
  uint64_t before;
};
__device__ __forceinline__ Passed LaneThatPasses(uint64_t own, uint64_t before, uint64_t target) {
  uint64_t total = 0;
  before += ScanWarp(own, &total);
  const bool passes = before <= target && target < before + own;
  uint32_t lane = passes ? threadIdx.x % 32 : 0;
  before = passes ? before : 0;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    lane |= ptx::ShuffleXor(lane, lanes);
    before |= Shuffle(before, lanes);
  }
  return {static_cast<int>(lane), before};
}

// Within a slice: its masses by cells of 32 neighbours, then the cell, then the id.
__device__ __forceinline__ int32_t DrawOf(const SampleCall& p, const Row& row, const Cut& cut,
                                          int slice, uint64_t before, uint64_t target,
                                          Ranking& ranking) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Slice ids(p, slice);
  constexpr int kAhead = 8;
  for (int round = 0; round < kRounds; round += kAhead) {
    uint64_t mass[kAhead] = {};
    const int first = ids.begin + round * kThreads + static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int id = first + i * kThreads;
      if (id < ids.end) mass[i] = MassOf(row, cut, id, row.logits[id]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if ((round + i) * kThreads < ids.end - ids.begin) ScanWarp(mass[i], &mass[i]);
      if (lane == 0) ranking.cells[(round + i) * kWarps + warp] = mass[i];
    }
  }
  ptx::SyncThreads();
  constexpr int kOwn = kCells / 32;
  uint64_t own = 0;
  for (int i = 0; i < kOwn; ++i) own += ranking.cells[lane * kOwn + i];
  const Passed passed = LaneThatPasses(own, before, target);
  int cell = passed.lane * kOwn;
  before = passed.before;
  while (before + ranking.cells[cell] <= target) before += ranking.cells[cell++];
  if (cell % kWarps == warp) {
    const int id = ids.begin + cell / kWarps * kThreads + static_cast<int>(threadIdx.x);
    own = id < ids.end ? MassOf(row, cut, id, row.logits[id]) : 0;
    const Passed drawn = LaneThatPasses(own, before, target);
    if (lane == drawn.lane) ranking.found = static_cast<uint64_t>(id);
  }
  ptx::SyncThreads();
  return static_cast<int32_t>(ranking.found);
}

// Inverse CDF over what is kept, ids ascending.
__device__ __forceinline__ int32_t Draw(const SampleCall& p, const SampleSettings& settings,
                                        const Row& row) {
  auto& ranking = SharedMemory<Ranking>();
  const int slices = SlicesOf(p.vocab_size);
  Cut cut;
  if (HasCut(p, settings)) {
    cut = TakeCut(p, settings, row, ranking);
  } else {
    cut.min_weight = settings.min_p;
    for (int i = static_cast<int>(threadIdx.x); i < slices; i += kThreads)
      ranking.masses[i] = StateOf(p).mass[i];
  }
  ptx::SyncThreads();
  uint64_t total = 0;
  for (int i = 0; i < slices; ++i) total += ranking.masses[i];
  const auto target = static_cast<uint64_t>(
      static_cast<unsigned __int128>(UniformBits(settings.seed, settings.counter)) * total >> 53);
  uint64_t before = 0;
  int slice = 0;
  while (slice + 1 < slices && before + ranking.masses[slice] <= target)
    before += ranking.masses[slice++];
  return DrawOf(p, row, cut, slice, before, target, ranking);
}

}  // namespace
}  // namespace nibble::cuda

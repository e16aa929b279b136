// What the blocks of a row find out of it, each of a slice of its ids, and leave for the launches
// that follow (sample.h): the slice's best, its mass, and where the row's cuts fall.
//
// A cut is first found among bins of logits, of equal width in the exponent: how many ids a bin
// holds, and of what mass. Bins before the cut's are kept whole, bins behind it dropped; only ids
// of the bin that it falls into are candidates, which sample_ranks.cuh puts in order. Only ids with
// a mass count, for no other is ever drawn.
#pragma once

#include <cstdint>

#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_row.cuh"

namespace nibble::cuda {
namespace {

constexpr int kLargestVocabulary = 1 << 19;  // the headroom of sums of weights
constexpr int kSlice = 8192;                 // ids of a block
constexpr int kMostSlices = kLargestVocabulary / kSlice;
constexpr int kBins = 1024;
constexpr float kBinsOfHalf = 23;  // by which a weight falls to a half; 2^-44 of the largest is 0
constexpr int kMostCandidates = 512;  // of a slice

// Where the cuts fall. Bins before `low` are kept.
struct CutBins {
  int32_t counted;    // holds the last id of top_k; kBins where all ids are within it
  int32_t low, high;  // top_p's falls into one of these; both `counted` without top_p
  int32_t unused;
  uint64_t count_before, mass_before;  // of the bins before `counted`
  uint64_t mass_before_low;
};

// Of one row, in scratch memory; candidates and adjusted logits lie behind it.
struct RowState {
  uint64_t best[kMostSlices], nan[kMostSlices];  // of each slice's Best
  uint64_t mass[kMostSlices];                    // of what is kept of a slice, but for candidates
  int32_t num_candidates[kMostSlices];           // found, of which kMostCandidates are listed
  uint32_t count[kBins], mass_low[kBins], mass_high[kBins];
  CutBins cut;
};

constexpr int SlicesOf(int32_t vocab_size) { return (vocab_size + kSlice - 1) / kSlice; }
constexpr int64_t ToSectors(int64_t bytes) { return (bytes + 31) / 32 * 32; }
constexpr int64_t StateBytes(int32_t vocab_size) {
  return ToSectors(static_cast<int64_t>(sizeof(RowState)) +
                   int64_t{SlicesOf(vocab_size)} * kMostCandidates * 4);
}
constexpr int64_t ScratchBytes(int32_t vocab_size) {
  return StateBytes(vocab_size) + ToSectors(int64_t{vocab_size} * 4);
}

// --- the row of blockIdx.y

__device__ __forceinline__ uint8_t* ScratchOf(const SampleCall& p) {
  return static_cast<uint8_t*>(p.scratch) + blockIdx.y * ScratchBytes(p.vocab_size);
}
__device__ __forceinline__ RowState& StateOf(const SampleCall& p) {
  return *reinterpret_cast<RowState*>(ScratchOf(p));
}
__device__ __forceinline__ int32_t* CandidatesOf(const SampleCall& p, int slice) {
  return reinterpret_cast<int32_t*>(ScratchOf(p) + sizeof(RowState)) + slice * kMostCandidates;
}
__device__ __forceinline__ float* AdjustedOf(const SampleCall& p) {
  return reinterpret_cast<float*>(ScratchOf(p) + StateBytes(p.vocab_size));
}

__device__ __forceinline__ bool IsPenalized(const SampleSettings& row) {
  return (row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0) &&
         row.seen.begin != row.seen.end;
}
__device__ __forceinline__ bool IsAdjusted(const SampleSettings& row) {
  return IsPenalized(row) || row.allowed.begin != row.allowed.end ||
         row.forbidden.begin != row.forbidden.end || row.bias.begin != row.bias.end;
}
__device__ __forceinline__ const float* UntouchedOf(const SampleCall& p,
                                                    const SampleSettings& row) {
  return p.logits + static_cast<int64_t>(row.logits_row) * p.logits_stride;
}
__device__ __forceinline__ const float* LogitsOf(const SampleCall& p, const SampleSettings& row) {
  return IsAdjusted(row) ? AdjustedOf(p) : UntouchedOf(p, row);
}

__device__ __forceinline__ bool HasTopK(const SampleCall& p, const SampleSettings& row) {
  return row.top_k > 0 && row.top_k < p.vocab_size;
}
__device__ __forceinline__ bool HasCut(const SampleCall& p, const SampleSettings& row) {
  return HasTopK(p, row) || row.top_p < 1;
}
// Not scored, and not greedy.
__device__ __forceinline__ bool IsDrawn(const SampleSettings& row) {
  return row.score_id < 0 && row.temperature != 0;
}

__device__ __forceinline__ Best BestOfSlices(const SampleCall& p) {
  const RowState& state = StateOf(p);
  Best best;
  for (int i = 0; i < SlicesOf(p.vocab_size); ++i) {
    best.order = Larger(best.order, state.best[i]);
    best.nan |= state.nan[i];
  }
  return best;
}

__device__ __forceinline__ Row RowOf(const SampleCall& p, const SampleSettings& settings,
                                     const Best& best) {
  return Row(LogitsOf(p, settings), p.vocab_size, LogitOf(best.order), settings.temperature);
}

// The ids of a slice.
struct Slice {
  int begin, end;

  __device__ __forceinline__ Slice(const SampleCall& p, int slice)
      : begin(slice * kSlice), end(begin + kSlice < p.vocab_size ? begin + kSlice : p.vocab_size) {}
  __device__ __forceinline__ bool Has(int32_t id) const { return id >= begin && id < end; }
};

// --- bins

// The bin of a logit: the larger the logit, the lower, never the other way round.
struct Bins {
  float max, scale;

  __device__ __forceinline__ explicit Bins(const Row& row) : max(row.max), scale(row.scale) {}
  __device__ __forceinline__ int Of(float logit) const {
    const float bin = (max - logit) * scale * kBinsOfHalf;
    return bin < kBins - 1 ? static_cast<int>(bin) : kBins - 1;
  }
};

struct Histogram : Exchange {
  uint32_t count[kBins], mass_low[kBins], mass_high[kBins];
};

// Adds to a number of 64 bits in two halves by an atomic addition of 32; each that wraps round is
// seen by the thread that made it.
template <class Add>
__device__ __forceinline__ void AddWide(Add add, uint32_t* low, uint32_t* high, uint64_t value) {
  const auto of_low = static_cast<uint32_t>(value);
  const uint32_t before = add(low, of_low);
  const uint32_t of_high =
      static_cast<uint32_t>(value >> 32) + (before + of_low < before ? 1u : 0u);
  if (of_high != 0) add(high, of_high);
}

// Adds a slice to the row's bins: ids, and where asked their mass.
__device__ __forceinline__ void FillBins(const Row& row, const Slice& slice, bool by_mass,
                                         RowState& state) {
  auto& own = SharedMemory<Histogram>();
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads)
    own.count[i] = own.mass_low[i] = own.mass_high[i] = 0;
  ptx::SyncThreads();
  const Bins bins(row);
  const auto add_shared = [](uint32_t* to, uint32_t value) {
    return ptx::AtomicAddShared(ptx::SharedAddress(to), value);
  };
  ForEachLogit(row.logits, slice.begin, slice.end, [&](int, float x) {
    const uint64_t mass = FixedOf(row.WeightOf(x));
    if (mass == 0) return;
    const int bin = bins.Of(x);
    add_shared(&own.count[bin], 1);
    if (by_mass) AddWide(add_shared, &own.mass_low[bin], &own.mass_high[bin], mass);
  });
  ptx::SyncThreads();
  const auto add = [](uint32_t* to, uint32_t value) { return ptx::AtomicAdd(to, value); };
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) {
    if (own.count[i] == 0) continue;
    add(&state.count[i], own.count[i]);
    if (!by_mass) continue;
    AddWide(add, &state.mass_low[i], &state.mass_high[i],
            uint64_t{own.mass_high[i]} << 32 | own.mass_low[i]);
  }
}

// --- where the cuts fall

struct Finding : Exchange {
  CutBins cut;
  uint64_t mass_through;  // of the bins up to `counted`
  uint32_t num_candidates;
};

// Neighbouring bins of a thread, and what comes before them.
struct OwnBins {
  static constexpr int kOwn = kBins / kThreads;
  int first;
  uint64_t count[kOwn], mass[kOwn];
  uint64_t count_before, mass_before, count_total, mass_total;

  __device__ __forceinline__ explicit OwnBins(const RowState& state)
      : first(static_cast<int>(threadIdx.x) * kOwn) {
    uint64_t counts = 0, masses = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int bin = first + i;
      count[i] = state.count[bin];
      mass[i] = uint64_t{state.mass_high[bin]} << 32 | state.mass_low[bin];
      counts += count[i];
      masses += mass[i];
    }
    count_before = ScanBlock(counts, &count_total);
    mass_before = ScanBlock(masses, &mass_total);
  }

  // Calls found(bin, mass before it) for the bin in which the sum of masses reaches `needed`, by
  // the thread whose it is.
  template <class Found>
  __device__ __forceinline__ void FindMass(uint64_t needed, Found found) const {
    uint64_t before = mass_before;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (before < needed && needed <= before + mass[i]) found(first + i, before);
      before += mass[i];
    }
  }
};

// top_p's share is of what top_k keeps, whose mass is known but for the bin that cut falls into: so
// top_p's falls somewhere from the bin that the least mass would give to that of the largest.
__device__ __forceinline__ CutBins FindBins(const SampleCall& p, const SampleSettings& settings,
                                            const RowState& state) {
  auto& finding = SharedMemory<Finding>();
  const OwnBins own(state);
  if (threadIdx.x == 0) {
    finding.cut = {kBins, kBins, kBins, 0, own.count_total, own.mass_total, 0};
    finding.mass_through = own.mass_total;
  }
  ptx::SyncThreads();
  const uint64_t wanted = HasTopK(p, settings) ? static_cast<uint64_t>(settings.top_k) : 0;
  uint64_t count_before = own.count_before, mass_before = own.mass_before;
#pragma unroll
  for (int i = 0; i < OwnBins::kOwn; ++i) {
    if (count_before < wanted && wanted <= count_before + own.count[i]) {
      const int bin = own.first + i;
      finding.cut = {bin, bin, bin, 0, count_before, mass_before, 0};
      finding.mass_through = mass_before + own.mass[i];
    }
    count_before += own.count[i];
    mass_before += own.mass[i];
  }
  ptx::SyncThreads();
  if (settings.top_p < 1) {
    own.FindMass(ShareOf(finding.cut.mass_before, settings.top_p), [&](int bin, uint64_t before) {
      finding.cut.low = bin;
      finding.cut.mass_before_low = before;
    });
    own.FindMass(ShareOf(finding.mass_through, settings.top_p),
                 [&](int bin, uint64_t) { finding.cut.high = bin; });
    ptx::SyncThreads();
  }
  return finding.cut;
}

// Lists the slice's candidates and sums up what of it is kept for certain.
__device__ __forceinline__ void Gather(const SampleCall& p, const SampleSettings& settings,
                                       const Row& row, const CutBins& cut, RowState& state) {
  auto& finding = SharedMemory<Finding>();
  const int slice = static_cast<int>(blockIdx.x);
  const Slice ids(p, slice);
  const Bins bins(row);
  Cut kept;
  kept.min_weight = settings.min_p;
  int32_t* candidates = CandidatesOf(p, slice);
  uint64_t mass[1] = {0};
  ForEachLogit(row.logits, ids.begin, ids.end, [&](int id, float x) {
    const int bin = bins.Of(x);
    if (bin < cut.low) {
      mass[0] += MassOf(row, kept, id, x);
    } else if ((bin <= cut.high || bin == cut.counted) && FixedOf(row.WeightOf(x)) != 0) {
      const uint32_t at = ptx::AtomicAddShared(ptx::SharedAddress(&finding.num_candidates), 1);
      if (at < kMostCandidates) candidates[at] = id;
    }
  });
  FoldBlock(mass, Sum);
  if (threadIdx.x == 0) {
    state.mass[slice] = mass[0];
    state.num_candidates[slice] = static_cast<int32_t>(finding.num_candidates);
  }
}

}  // namespace
}  // namespace nibble::cuda

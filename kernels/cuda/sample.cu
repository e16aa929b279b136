#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_ranks.cuh"

namespace nibble::cuda {
namespace {

// An infinity that a request's own numbers made of a finite logit would pass for a broken model.
__device__ __forceinline__ float Bounded(float adjusted, float before) {
  const bool was_finite = before - before == 0;
  if (was_finite && adjusted > kLargest) return kLargest;
  if (was_finite && adjusted < -kLargest) return -kLargest;
  return adjusted;
}

// Steps 1 to 3 of SampleRow, for a slice of ids: to the row's copy.
__device__ __forceinline__ void Adjust(const SampleCall& p, const SampleSettings& row,
                                       const Slice& slice) {
  const int thread = static_cast<int>(threadIdx.x);
  const float* logits = UntouchedOf(p, row);
  float* to = AdjustedOf(p);
  const bool has_allowed = row.allowed.begin != row.allowed.end;
  for (int i = slice.begin + thread; i < slice.end; i += kThreads)
    to[i] = has_allowed ? kNever : logits[i];
  ptx::SyncThreads();
  for (int i = row.allowed.begin + thread; i < row.allowed.end; i += kThreads) {
    if (slice.Has(p.ids[i])) to[p.ids[i]] = logits[p.ids[i]];
  }
  ptx::SyncThreads();
  for (int i = row.forbidden.begin + thread; i < row.forbidden.end; i += kThreads) {
    if (slice.Has(p.ids[i])) to[p.ids[i]] = kNever;
  }
  ptx::SyncThreads();
  for (int i = row.bias.begin + thread; i < row.bias.end; i += kThreads) {
    if (!slice.Has(p.bias[i].id)) continue;
    float& logit = to[p.bias[i].id];
    logit = Bounded(logit + p.bias[i].bias, logit);
  }
  ptx::SyncThreads();
  for (int i = row.seen.begin + thread; i < row.seen.end && IsPenalized(row); i += kThreads) {
    const SeenToken seen = p.seen[i];
    if (!slice.Has(seen.id)) continue;
    float logit = to[seen.id];
    if (seen.in_prompt + seen.in_output > 0 && row.repetition_penalty != 1)
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    if (seen.in_output > 0) {
      logit -=
          ptx::Fma(row.frequency_penalty, static_cast<float>(seen.in_output), row.presence_penalty);
    }
    to[seen.id] = Bounded(logit, to[seen.id]);
  }
  ptx::SyncThreads();
}

// grid of this kernel and the next two: (slices, rows)
__global__ void __launch_bounds__(kThreads) SurveyKernel(const SampleCall p) {
  const SampleSettings& settings = p.settings[blockIdx.y];
  if (settings.score_id >= 0) return;
  RowState& state = StateOf(p);
  if (IsDrawn(settings) && HasCut(p, settings)) {
    const int first = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
    for (int i = first; i < kBins; i += static_cast<int>(gridDim.x) * kThreads)
      state.count[i] = state.mass_low[i] = state.mass_high[i] = 0;
  }
  const Slice slice(p, static_cast<int>(blockIdx.x));
  if (IsAdjusted(settings)) Adjust(p, settings, slice);
  const Best best = BestBelow(LogitsOf(p, settings), slice.begin, slice.end, ~uint64_t{0});
  if (threadIdx.x == 0) {
    state.best[blockIdx.x] = best.order;
    state.nan[blockIdx.x] = best.nan;
  }
}

__global__ void __launch_bounds__(kThreads) WeighKernel(const SampleCall p) {
  const SampleSettings& settings = p.settings[blockIdx.y];
  if (!IsDrawn(settings)) return;
  const Best best = BestOfSlices(p);
  if (!best.IsFinite()) return;
  RowState& state = StateOf(p);
  const Row row = RowOf(p, settings, best);
  const Slice slice(p, static_cast<int>(blockIdx.x));
  if (HasCut(p, settings)) return FillBins(row, slice, settings.top_p < 1, state);
  Cut kept;
  kept.min_weight = settings.min_p;
  const uint64_t mass = SumOfMasses(row, kept, slice.begin, slice.end);
  if (threadIdx.x == 0) state.mass[blockIdx.x] = mass;
}

__global__ void __launch_bounds__(kThreads) GatherKernel(const SampleCall p) {
  const SampleSettings& settings = p.settings[blockIdx.y];
  if (!IsDrawn(settings) || !HasCut(p, settings)) return;
  const Best best = BestOfSlices(p);
  if (!best.IsFinite()) return;
  RowState& state = StateOf(p);
  if (threadIdx.x == 0) SharedMemory<Finding>().num_candidates = 0;
  const CutBins cut = FindBins(p, settings, state);
  if (blockIdx.x == 0 && threadIdx.x == 0) state.cut = cut;
  Gather(p, settings, RowOf(p, settings, best), cut, state);
}

// Log probabilities of the untouched row: of the drawn id, and of the most likely ones.
__device__ __forceinline__ bool Score(const SampleCall& p, const SampleSettings& settings,
                                      int32_t id) {
  constexpr float kLn2 = 0.6931471805599453f;
  const float* logits = UntouchedOf(p, settings);
  const Best best = BestBelow(logits, 0, p.vocab_size, ~uint64_t{0});
  if (!best.IsFinite()) return false;
  const Row row(logits, p.vocab_size, LogitOf(best.order), 1.0f);
  const float log_total =
      ptx::Log2(static_cast<float>(SumOf(row, Cut{}).mass) / kWeightUnit) * kLn2;
  const auto logprob = [&](float logit) { return logit - row.max - log_total; };
  if (threadIdx.x == 0) p.drawn[blockIdx.y].logprob = logprob(logits[id]);
  uint64_t next = best.order;
  for (int i = 0; i < settings.num_logprobs; ++i) {
    if (threadIdx.x == 0) {
      LikelyToken& to = p.likely[static_cast<int64_t>(blockIdx.y) * p.max_logprobs + i];
      to = next == 0 ? LikelyToken{} : LikelyToken{IdOf(next), logprob(LogitOf(next))};
    }
    if (next != 0 && i + 1 < settings.num_logprobs)
      next = BestBelow(logits, 0, p.vocab_size, next).order;
  }
  return true;
}

// grid: (1, rows)
__global__ void __launch_bounds__(kThreads) DrawKernel(const SampleCall p) {
  const SampleSettings& settings = p.settings[blockIdx.y];
  int32_t id = settings.score_id;
  if (id < 0) {
    const Best best = BestOfSlices(p);
    id = best.IsFinite() ? IdOf(best.order) : -1;
    if (id >= 0 && settings.temperature != 0) id = Draw(p, settings, RowOf(p, settings, best));
  }
  if (threadIdx.x == 0) {
    p.drawn[blockIdx.y] = {id, 0};
    if (p.drawn_ids != nullptr) p.drawn_ids[blockIdx.y] = id < 0 ? 0 : id;
  }
  if (id < 0 || settings.num_logprobs < 0) return;
  if (!Score(p, settings, id) && threadIdx.x == 0) p.drawn[blockIdx.y] = {-1, 0};
}

}  // namespace

int64_t SampleScratchBytes(int32_t vocab_size) { return ScratchBytes(vocab_size); }

cudaError_t LaunchSample(const SampleCall& call, cudaStream_t stream) {
  constexpr int32_t kMostRows = 65535;  // of a grid's y
  const bool is_aligned = reinterpret_cast<uintptr_t>(call.scratch) % 16 == 0;
  if (call.rows < 1 || call.rows > kMostRows || call.vocab_size < 1 ||
      call.vocab_size > kLargestVocabulary || call.logits == nullptr || call.settings == nullptr ||
      call.scratch == nullptr || !is_aligned || call.drawn == nullptr ||
      (call.likely == nullptr && call.max_logprobs > 0)) {
    return cudaErrorInvalidValue;
  }
  const auto slices = static_cast<uint32_t>(SlicesOf(call.vocab_size));
  const auto rows = static_cast<uint32_t>(call.rows);
  const auto launch = [&](void (*kernel)(SampleCall), uint32_t blocks, size_t shared_bytes) {
    return Launch(kernel, {dim3(blocks, rows), dim3(kThreads), shared_bytes, stream}, call);
  };
  cudaError_t error = launch(SurveyKernel, slices, sizeof(Exchange));
  if (error == cudaSuccess) error = launch(WeighKernel, slices, sizeof(Histogram));
  if (error == cudaSuccess) error = launch(GatherKernel, slices, sizeof(Finding));
  if (error == cudaSuccess) error = launch(DrawKernel, 1, sizeof(Ranking));
  return error;
}

}  // namespace nibble::cuda

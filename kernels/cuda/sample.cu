#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_row.cuh"

namespace nibble::cuda {
namespace {

// An infinity that a request's own numbers made of a finite logit would pass for a broken model.
__device__ __forceinline__ float Bounded(float adjusted, float before) {
  const bool was_finite = before - before == 0;
  if (was_finite && adjusted > kLargest) return kLargest;
  if (was_finite && adjusted < -kLargest) return -kLargest;
  return adjusted;
}

// Steps 1 to 3 of SampleRow: the row itself where there is nothing to change, else its copy.
__device__ __forceinline__ const float* Adjust(const SampleCall& p, const SampleSettings& row,
                                               const float* logits) {
  const bool penalized =
      (row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0) &&
      row.seen.begin != row.seen.end;
  const bool has_allowed = row.allowed.begin != row.allowed.end;
  if (!penalized && !has_allowed && row.forbidden.begin == row.forbidden.end &&
      row.bias.begin == row.bias.end) {
    return logits;
  }
  const int thread = static_cast<int>(threadIdx.x);
  float* to = p.adjusted + static_cast<int64_t>(blockIdx.x) * p.vocab_size;
  for (int i = thread; i < p.vocab_size; i += kThreads) to[i] = has_allowed ? kNever : logits[i];
  ptx::SyncThreads();
  for (int i = row.allowed.begin + thread; i < row.allowed.end; i += kThreads)
    to[p.ids[i]] = logits[p.ids[i]];
  ptx::SyncThreads();
  for (int i = row.forbidden.begin + thread; i < row.forbidden.end; i += kThreads)
    to[p.ids[i]] = kNever;
  ptx::SyncThreads();
  for (int i = row.bias.begin + thread; i < row.bias.end; i += kThreads) {
    float& logit = to[p.bias[i].id];
    logit = Bounded(logit + p.bias[i].bias, logit);
  }
  ptx::SyncThreads();
  for (int i = row.seen.begin + thread; i < row.seen.end && penalized; i += kThreads) {
    const SeenToken seen = p.seen[i];
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
  return to;
}

// The cut of step 5: top_k, then top_p of what it left, as one threshold.
__device__ __forceinline__ Cut FindCut(const Row& row, const SampleSettings& settings) {
  Cut cut;
  if (settings.top_k > 0 && settings.top_k < row.size)
    cut = CutByCount(row, static_cast<uint64_t>(settings.top_k));
  if (settings.top_p < 1) cut = CutByMass(row, cut, settings.top_p);
  cut.min_weight = settings.min_p;
  return cut;
}

// Log probabilities of the untouched row: of the drawn id, and of the most likely ones.
__device__ __forceinline__ bool Score(const SampleCall& p, const SampleSettings& settings,
                                      const float* logits, int32_t id) {
  constexpr float kLn2 = 0.6931471805599453f;
  const Best best = BestAfter(logits, p.vocab_size, {});
  if (!best.IsFinite()) return false;
  const Row row{logits, p.vocab_size, best.logit, 1.0f};
  const float log_total =
      ptx::Log2(static_cast<float>(SumOf(row, Cut{}).mass) / kWeightUnit) * kLn2;
  const auto logprob = [&](float logit) { return logit - best.logit - log_total; };
  if (threadIdx.x == 0) p.drawn[blockIdx.x].logprob = logprob(logits[id]);
  Best next = best;
  for (int i = 0; i < settings.num_logprobs; ++i) {
    if (threadIdx.x == 0) {
      LikelyToken& to = p.likely[static_cast<int64_t>(blockIdx.x) * p.max_logprobs + i];
      to = next.id < 0 ? LikelyToken{} : LikelyToken{next.id, logprob(next.logit)};
    }
    if (next.id >= 0 && i + 1 < settings.num_logprobs) next = BestAfter(logits, p.vocab_size, next);
  }
  return true;
}

// grid: rows
__global__ void __launch_bounds__(kThreads) SampleKernel(const SampleCall p) {
  const SampleSettings& settings = p.settings[blockIdx.x];
  const float* untouched = p.logits + static_cast<int64_t>(settings.logits_row) * p.logits_stride;
  int32_t id = settings.score_id;
  if (id < 0) {
    const float* logits = Adjust(p, settings, untouched);
    const Best best = BestAfter(logits, p.vocab_size, {});
    id = best.IsFinite() ? best.id : -1;
    if (id >= 0 && settings.temperature != 0) {
      const Row row{logits, p.vocab_size, best.logit, settings.temperature};
      id = Draw(row, FindCut(row, settings), settings.seed, settings.counter);
    }
  }
  if (threadIdx.x == 0) {
    p.drawn[blockIdx.x] = {id, 0};
    if (p.drawn_ids != nullptr) p.drawn_ids[blockIdx.x] = id < 0 ? 0 : id;
  }
  if (id < 0 || settings.num_logprobs < 0) return;
  if (!Score(p, settings, untouched, id) && threadIdx.x == 0) p.drawn[blockIdx.x] = {-1, 0};
}

}  // namespace

cudaError_t LaunchSample(const SampleCall& call, cudaStream_t stream) {
  constexpr int32_t kLargestVocabulary = 1 << 19;
  if (call.rows < 1 || call.vocab_size < 1 || call.vocab_size > kLargestVocabulary ||
      call.logits == nullptr || call.settings == nullptr || call.drawn == nullptr ||
      (call.likely == nullptr && call.max_logprobs > 0)) {
    return cudaErrorInvalidValue;
  }
  return Launch(SampleKernel,
                {dim3(static_cast<uint32_t>(call.rows)), dim3(kThreads), sizeof(Exchange), stream},
                call);
}

}  // namespace nibble::cuda

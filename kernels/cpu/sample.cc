#include "kernels/cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/sample_philox.h"

namespace nibble::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

bool HasPenalty(const SampleRow& row) {
  return row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0;
}

float& At(std::vector<float>& logits, int32_t id) {
  NIBBLE_CHECK(id >= 0 && id < static_cast<int32_t>(logits.size()));
  return logits[id];
}

// An infinity that a request's own numbers made of a finite logit would pass for a broken model.
float Bounded(float adjusted, float before) {
  return std::isfinite(before) ? std::clamp(adjusted, -kLargest, kLargest) : adjusted;
}

void AddBias(const SampleRow& row, std::vector<float>& logits) {
  for (const LogitBias& bias : row.bias) {
    float& logit = At(logits, bias.id);
    logit = Bounded(logit + bias.bias, logit);
  }
}

void Penalize(const SampleRow& row, std::vector<float>& logits) {
  for (const TokenCount& seen : row.seen) {
    float& logit = At(logits, seen.id);
    const float before = logit;
    if (seen.in_prompt + seen.in_output > 0 && row.repetition_penalty != 1) {
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (seen.in_output > 0) {
      logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(seen.in_output);
    }
    logit = Bounded(logit, before);
  }
}

// Steps 1 to 3. Returns `logits` itself when there is nothing to change.
const float* Adjust(const float* logits, int32_t vocab, const SampleRow& row,
                    std::vector<float>& adjusted) {
  const bool penalized = HasPenalty(row) && !row.seen.empty();
  if (row.allowed.empty() && row.forbidden.empty() && row.bias.empty() && !penalized) return logits;
  if (row.allowed.empty()) {
    adjusted.assign(logits, logits + vocab);
  } else {
    adjusted.assign(vocab, kNever);
    for (int32_t id : row.allowed) At(adjusted, id) = logits[id];
  }
  for (int32_t id : row.forbidden) At(adjusted, id) = kNever;
  AddBias(row, adjusted);
  if (penalized) Penalize(row, adjusted);
  return adjusted.data();
}

// A row ready to draw from: adjusted logits and their unnormalized probabilities.
struct Distribution {
  const RowKernels& kernels;
  const float* logits;
  const float* weights;
  int32_t vocab;
  float max;
  float temperature;
  double total;
};

// Ids whose logit lies within `nats` (after temperature) of the maximum, ascending; never empty.
void CollectNear(const Distribution& from, float nats, std::vector<int32_t>& ids) {
  const float bound =
      std::min(from.max - nats * from.temperature, std::nextafter(from.max, kNever));
  ids.clear();
  for (int32_t i = 0;;) {
    i = from.kernels.find_greater(from.logits, i, from.vocab, bound);
    if (i == from.vocab) return;
    ids.push_back(i++);
  }
}

double Mass(const Distribution& from, const std::vector<int32_t>& ids) {
  double mass = 0;
  for (int32_t id : ids) mass += from.weights[id];
  return mass;
}

// Enough candidates that all survivors of the row's filters are among them.
void CollectCandidates(const Distribution& from, const SampleRow& row, std::vector<int32_t>& ids) {
  for (const float nats : {8.0f, 16.0f, 32.0f}) {
    if (row.top_k == 0 && row.top_p >= 1 && std::exp(-nats) >= row.min_p) continue;
    CollectNear(from, nats, ids);
    if (row.top_k > 0) {
      if (static_cast<int64_t>(ids.size()) >= row.top_k) return;
    } else if (row.top_p >= 1) {
      return;
    } else if (Mass(from, ids) >= row.top_p * from.total * (1 + 1e-6)) {
      return;  // the margin covers the two sums' different orders
    }
  }
  CollectNear(from, std::numeric_limits<float>::infinity(), ids);
}

// Step 5: ids that survive, ascending.
void SelectSurvivors(const Distribution& from, const SampleRow& row, std::vector<int32_t>& ids) {
  CollectCandidates(from, row, ids);
  const auto likelier = [&](int32_t a, int32_t b) {
    return from.logits[a] != from.logits[b] ? from.logits[a] > from.logits[b] : a < b;
  };
  double total = from.total;
  if (row.top_k > 0 && row.top_k < static_cast<int64_t>(ids.size())) {
    std::nth_element(ids.begin(), ids.begin() + (row.top_k - 1), ids.end(), likelier);
    ids.resize(row.top_k);
  }
  if (row.top_p < 1) {
    std::sort(ids.begin(), ids.end(), likelier);
    if (row.top_k > 0) total = Mass(from, ids);
    double mass = 0;
    size_t kept = 0;
    while (kept < ids.size() && mass < row.top_p * total) mass += from.weights[ids[kept++]];
    ids.resize(std::max<size_t>(kept, 1));
  }
  // The largest probability is the weight 1 over the total, so weights compare with min_p directly.
  std::erase_if(
      ids, [&](int32_t id) { return from.weights[id] < row.min_p && from.logits[id] != from.max; });
  std::sort(ids.begin(), ids.end());
}

int32_t DrawFromSurvivors(const Distribution& from, const std::vector<int32_t>& ids, double u) {
  const double target = u * Mass(from, ids);
  double mass = 0;
  int32_t last = ids.back();
  for (int32_t id : ids) {
    if (from.weights[id] > 0) last = id;
    mass += from.weights[id];
    if (mass > target) return id;
  }
  return last;
}

int32_t DrawFromAll(const Distribution& from, const std::vector<float>& run_sums, double u) {
  const double target = u * from.total;
  double mass = 0;
  size_t run = 0;  // the last run with any mass at or before the target
  for (size_t i = 0; i < run_sums.size(); ++i) {
    if (run_sums[i] == 0) continue;
    run = i;
    if (mass + run_sums[i] > target) break;
    mass += run_sums[i];
  }
  const int32_t begin = static_cast<int32_t>(run) * kSoftmaxRun;
  const int32_t end = std::min(begin + kSoftmaxRun, from.vocab);
  int32_t last = begin;
  for (int32_t id = begin; id < end; ++id) {
    if (from.weights[id] == 0) continue;
    last = id;
    mass += from.weights[id];
    if (mass > target) return id;
  }
  return last;  // rounding: the run's f32 sum was above the f64 one
}

// -1 when there is nothing to draw from.
int32_t Draw(const RowKernels& kernels, const float* logits, int32_t vocab, const SampleRow& row,
             SampleScratch& scratch) {
  logits = Adjust(logits, vocab, row, scratch.logits);
  bool nan = false;
  const float max = kernels.max(logits, vocab, &nan);
  if (nan || !std::isfinite(max)) return -1;
  if (row.temperature == 0) return kernels.find(logits, vocab, max);

  scratch.weights.resize(vocab);
  scratch.run_sums.resize((vocab + kSoftmaxRun - 1) / kSoftmaxRun);
  const double total = kernels.softmax(logits, vocab, max, row.temperature, scratch.weights.data(),
                                       scratch.run_sums.data());
  const Distribution from{kernels,         logits, scratch.weights.data(), vocab, max,
                          row.temperature, total};
  const double u = UniformDraw(row.seed, row.counter);
  if (row.top_k == 0 && row.top_p >= 1 && row.min_p <= 0) {
    return DrawFromAll(from, scratch.run_sums, u);
  }
  SelectSurvivors(from, row, scratch.survivors);
  return DrawFromSurvivors(from, scratch.survivors, u);
}

// Log probabilities of the untouched logits. False when they have no finite maximum.
bool Score(const RowKernels& kernels, const float* logits, int32_t vocab, int32_t num_top,
           SampledToken* out) {
  bool nan = false;
  const float max = kernels.max(logits, vocab, &nan);
  if (nan || !std::isfinite(max)) return false;
  const double total = kernels.softmax(logits, vocab, max, 1.0f, nullptr, nullptr);
  const double log_total = max + std::log(total);
  out->logprob = static_cast<float>(logits[out->id] - log_total);

  const size_t wanted = std::min(num_top, vocab);
  auto& top = out->top;  // holds logits until the end; sorted, earlier ids first among equals
  top.reserve(wanted + 1);
  for (int32_t i = 0; wanted > 0; ++i) {
    const bool full = top.size() == wanted;
    if (full) i = kernels.find_greater(logits, i, vocab, top.back().logprob);
    if (i >= vocab) break;
    const auto at = std::upper_bound(top.begin(), top.end(), logits[i],
                                     [](float x, const TokenLogprob& y) { return x > y.logprob; });
    top.insert(at, {i, logits[i]});
    if (full) top.pop_back();
  }
  for (TokenLogprob& entry : top) entry.logprob = static_cast<float>(entry.logprob - log_total);
  return true;
}

}  // namespace

bool SampleOneRow(const RowKernels& kernels, const float* logits, int32_t vocab,
                  const SampleRow& row, SampleScratch& scratch, SampledToken* out) {
  SampledToken result;
  if (row.score_id >= 0) {
    NIBBLE_CHECK(row.score_id < vocab);
    result.id = row.score_id;
  } else {
    result.id = Draw(kernels, logits, vocab, row, scratch);
    if (result.id < 0) return false;
  }
  if (row.num_logprobs >= 0 && !Score(kernels, logits, vocab, row.num_logprobs, &result)) {
    return false;
  }
  *out = std::move(result);
  return true;
}

}  // namespace nibble::cpu

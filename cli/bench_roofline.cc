#include "cli/bench_roofline.h"

#include <vector>

#include "cli/bench_sequences.h"

namespace nibble {
namespace {

// Adds `tokens` of one sequence with `context` tokens in the cache before them.
void AddSequence(const ModelCost& cost, int64_t context, int64_t tokens, PassCost& pass) {
  pass.bytes += (context + tokens + tokens) * cost.kv_bytes;
  pass.linear_macs += tokens * cost.layer_macs;
  pass.attention_macs += (tokens * context + tokens * (tokens + 1) / 2) * cost.attention_macs;
}

}  // namespace

ModelCost CostOf(const ModelConfig& config, const RunnerBytes& bytes, int64_t kv_bytes_per_token) {
  const int64_t layers = config.num_layers, hidden = config.hidden_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  ModelCost cost;
  cost.layer_bytes = bytes.layers;
  cost.head_bytes = bytes.head;
  cost.kv_bytes = kv_bytes_per_token;
  cost.layer_macs = layers * (hidden * (q + 2 * kv) + q * hidden + 3 * hidden * config.ffn_size);
  cost.head_macs = int64_t{config.vocab_size} * hidden;
  cost.attention_macs = 2 * layers * q;
  return cost;
}

PassCost PrefillCost(const ModelCost& cost, int32_t batch, int32_t tokens,
                     int32_t max_batch_tokens) {
  PassCost pass;
  std::vector<int64_t> computed(batch, 0);
  for (const std::vector<int32_t>& step : PrefillSteps(batch, tokens, max_batch_tokens)) {
    bool draws = false;
    pass.bytes += cost.layer_bytes;
    for (int32_t i = 0; i < batch; ++i) {
      if (step[i] == 0) continue;
      AddSequence(cost, computed[i], step[i], pass);
      computed[i] += step[i];
      if (computed[i] < tokens) continue;
      draws = true;
      pass.linear_macs += cost.head_macs;
    }
    if (draws) pass.bytes += cost.head_bytes;
  }
  return pass;
}

PassCost DecodeCost(const ModelCost& cost, int32_t batch, int32_t context, int32_t generate) {
  PassCost pass;
  for (int32_t i = 0; i < generate; ++i) {
    pass.bytes += cost.layer_bytes + cost.head_bytes;
    pass.linear_macs += batch * cost.head_macs;
    for (int32_t s = 0; s < batch; ++s) AddSequence(cost, context + i, 1, pass);
  }
  return pass;
}

Roofline RooflineOf(const PassCost& cost, int64_t tokens, double seconds, const MachinePeaks& peaks,
                    CpuActivations activations) {
  const double bytes = static_cast<double>(cost.bytes);
  const double linear = static_cast<double>(cost.linear_macs);
  const double attention = static_cast<double>(cost.attention_macs);
  const double linear_peak = activations == CpuActivations::kInt8    ? peaks.int8_macs_per_s
                             : activations == CpuActivations::kInt16 ? peaks.int8_macs_per_s / 2
                                                                     : peaks.f32_macs_per_s;
  Roofline roofline;
  roofline.bytes_per_token = bytes / static_cast<double>(tokens);
  roofline.macs_per_token = (linear + attention) / static_cast<double>(tokens);
  roofline.gb_per_s = bytes / seconds / 1e9;
  roofline.gmac_per_s = (linear + attention) / seconds / 1e9;
  roofline.bandwidth_share = bytes / seconds / peaks.bandwidth_bytes_per_s;
  roofline.peak_share = (linear / linear_peak + attention / peaks.attention_macs_per_s) / seconds;
  return roofline;
}

}  // namespace nibble

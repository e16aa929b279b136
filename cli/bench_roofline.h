// The roofline column of `nibble bench`: the bytes and multiply-adds a pass cannot do without, how
// fast it did them, and what share that is of what this machine was measured to reach
// (kernels/machine.h).
//
// Bytes of a step: the packed weights of all layers once; those of the head once if a token is
// drawn; for each sequence, k and v of every position its tokens see once, and of each of its
// tokens once more (written). Not counted: activations and rope angles, which stay in caches; the
// gathered embedding rows; weights or k and v read a second time in the same step. So it is what
// must move, and a rate above the bandwidth of memory means that a part came from a cache.
//
// Multiply-adds: linear, in x out of every layer's matrices a token, and of the head a token drawn;
// attention, 2 x heads x head_dim a token, layer and position seen (scores, and weighted values).
#pragma once

#include <cstdint>

#include "engine/model/device_runner.h"
#include "engine/model/model_config.h"
#include "kernels/machine.h"

namespace nibble {

struct ModelCost {
  int64_t layer_bytes = 0;
  int64_t head_bytes = 0;
  int64_t kv_bytes = 0;        // of one position
  int64_t layer_macs = 0;      // of one token
  int64_t head_macs = 0;       // of one token drawn
  int64_t attention_macs = 0;  // of one token and one position it sees
};
ModelCost CostOf(const ModelConfig& config, const RunnerBytes& bytes, int64_t kv_bytes_per_token);

struct PassCost {
  int64_t bytes = 0;
  int64_t linear_macs = 0;
  int64_t attention_macs = 0;
};
// `batch` prompts of `tokens` each, in the steps of PrefillSteps; a token drawn for each at its
// end.
PassCost PrefillCost(const ModelCost& cost, int32_t batch, int32_t tokens,
                     int32_t max_batch_tokens);
// `generate` steps of one token for each of `batch` sequences, from `context` tokens in the cache.
PassCost DecodeCost(const ModelCost& cost, int32_t batch, int32_t context, int32_t generate);

struct Roofline {
  double bytes_per_token = 0;
  double macs_per_token = 0;
  double gb_per_s = 0;
  double gmac_per_s = 0;
  // Of the bandwidth over a buffer of the packed weights' size.
  double bandwidth_share = 0;
  // Of the time it took, the part the multiply-adds would take at the peaks: linear at the int8 one
  // (f32 with f32 activations), attention at that of what it multiplies in.
  double peak_share = 0;
};
Roofline RooflineOf(const PassCost& cost, int64_t tokens, double seconds, const MachinePeaks& peaks,
                    CpuActivations activations);

}  // namespace nibble

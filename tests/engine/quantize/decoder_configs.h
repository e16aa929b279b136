// The shapes of decoder that a forward in plain f32, and the way back through it, are tested on:
// each has what the others lack.
#pragma once

#include <vector>

#include "engine/model/model_config.h"
#include "tests/engine/model/tiny_decoder.h"

namespace nibble::quantize::testing {

inline std::vector<ModelConfig> DecoderConfigs() {
  std::vector<ModelConfig> configs(4, TinyConfig());
  configs[1].rope_layout = RopeLayout::kHalf;
  configs[1].qkv_bias = true;
  configs[2].tied_head = true;
  configs[2].rotary_dim = 8;
  configs[3].num_kv_heads = 1;
  configs[3].rope_scaling = RopeScaling::kLinear;
  configs[3].rope_factor = 4;
  return configs;
}

}  // namespace nibble::quantize::testing

// The shape of a Llama-family decoder. Filled from a weight file's metadata; a model family is a
// set of these flags.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace nibble {

enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3 };

struct ModelConfig {
  std::string architecture;  // "llama", "qwen2"
  std::string name;          // general.name, or the file's name
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t ffn_size = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab_size = 0;
  int32_t context_length = 0;  // the model was trained for
  float rms_epsilon = 1e-5f;
  int32_t rotary_dim = 0;
  float rope_base = 10000.0f;
  RopeLayout rope_layout = RopeLayout::kInterleaved;
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_factor = 1.0f;
  int32_t rope_original_context = 0;
  float rope_low_freq_factor = 1.0f;   // llama3
  float rope_high_freq_factor = 4.0f;  // llama3
  std::vector<float>
      rope_freq_factors;   // GGUF rope_freqs.weight: [rotary_dim / 2] divisors, or empty
  bool tied_head = false;  // no output.weight: the embedding is the head
  bool qkv_bias = false;   // Qwen2
};

}  // namespace nibble

// The angles of rotary position embedding (arXiv 2104.09864), every kind of context scaling
// included, so that the kernels only look up.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/model_config.h"

namespace nibble {

// Angle of one position step for each pair, [rotary_dim / 2]: base^(-2i / rotary_dim), then
//   kLinear: divided by rope_factor (arXiv 2306.15595)
//   kLlama3: slow pairs divided by rope_factor, fast ones kept, those between blended (Llama 3.1's
//   model card) rope_freq_factors, where a file has them: divided by these; they are llama3's
//   scaling already worked out, so they replace its formula.
std::vector<double> RopeFrequencies(const ModelConfig& config);

// [max_position, rotary_dim]: cos of pair i at [p][2i], its sine at [p][2i + 1]. Computed in f64.
std::vector<float> MakeRopeTable(const ModelConfig& config, int32_t max_position);

}  // namespace nibble

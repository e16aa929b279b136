#include "engine/model/rope_table.h"

#include <cmath>
#include <numbers>

namespace nibble {
namespace {

double ScaleLikeLlama3(const ModelConfig& config, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double original = config.rope_original_context;
  const double low = config.rope_low_freq_factor, high = config.rope_high_freq_factor;
  if (wavelength < original / high) return frequency;
  if (wavelength > original / low) return frequency / config.rope_factor;
  const double keep = (original / wavelength - low) / (high - low);
  return keep * frequency + (1 - keep) * frequency / config.rope_factor;
}

}  // namespace

std::vector<double> RopeFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(config.rotary_dim / 2);
  const bool has_factors = !config.rope_freq_factors.empty();
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(double{config.rope_base}, -2.0 * i / config.rotary_dim);
    if (config.rope_scaling == RopeScaling::kLinear) frequency /= config.rope_factor;
    if (has_factors) {
      frequency /= config.rope_freq_factors[i];
    } else if (config.rope_scaling == RopeScaling::kLlama3) {
      frequency = ScaleLikeLlama3(config, frequency);
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

std::vector<float> MakeRopeTable(const ModelConfig& config, int32_t max_position) {
  const std::vector<double> frequencies = RopeFrequencies(config);
  std::vector<float> table(size_t(max_position) * config.rotary_dim);
  float* out = table.data();
  for (int32_t position = 0; position < max_position; ++position) {
    for (double frequency : frequencies) {
      *out++ = static_cast<float>(std::cos(position * frequency));
      *out++ = static_cast<float>(std::sin(position * frequency));
    }
  }
  return table;
}

}  // namespace nibble

// A model with outlier channels, that computes the same as the one it was made of: some channels of
// every linear's input are made large where they are produced (norms; the rows of up) and the
// linears' columns small. Large models have such channels by themselves (arXiv 2208.07339).
#pragma once

#include <memory>

#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/calibration/replaced_weights.h"
#include "engine/quantize/methods/awq.h"

namespace nibble::quantize::testing {

// Every `stride`-th channel by `factor`. REQUIRES a source that loads.
inline std::unique_ptr<ReplacedWeights> PlantOutliers(const WeightSource& source,
                                                      const ModelConfig& config, int32_t stride,
                                                      float factor) {
  const auto divisors = [&](int64_t n) {  // of the producer: 1 / factor makes it larger
    VectorF scales = VectorF::Ones(n);
    for (int64_t j = stride / 2; j < n; j += stride) scales[j] = 1 / factor;
    return scales;
  };
  auto planted = std::make_unique<ReplacedWeights>(source);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    LayerWeights layer = *LoadLayer(source, config, i);
    for (Site site : {Site::kAttention, Site::kFeedForward, Site::kDown}) {
      const VectorF scales = divisors(layer[LinearsOf(site)[0]].cols());
      for (Linear linear : LinearsOf(site)) ScaleColumns(layer[linear], scales);
      if (site == Site::kDown) {
        DivideRows(layer[Linear::kUp], scales);
        continue;
      }
      VectorF& norm = site == Site::kAttention ? layer.attention_norm : layer.ffn_norm;
      norm.array() /= scales.array();
      (void)planted->Vector(NormName(i, site), norm);
    }
    for (int l = 0; l < kNumLinears; ++l) {
      (void)planted->Matrix(LinearName(i, static_cast<Linear>(l)), layer.linear[l], nullptr);
    }
  }
  return planted;
}

}  // namespace nibble::quantize::testing

// The windows of a calibration text on their way through the layers, and what arrives at the
// linears of the layer they have come to.
//
// Only residuals are kept, tokens * hidden * 4 bytes, in memory or in a scratch file
// (residual_store.h). Inputs of sites, up to four times as wide, are computed again from them where
// they are needed, a few windows at a time; taking the windows through a layer site by site so
// costs half as much again as with all inputs kept.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/calibration/input_stats.h"
#include "engine/quantize/calibration/residual_store.h"
#include "engine/quantize/methods/dense.h"

namespace nibble::quantize {

class LayerInputs {
 public:
  // For windows of at most `max_tokens`. `cancelled` (may be null) is looked at between windows:
  // CANCELLED from all that return a status, which otherwise say what the scratch file does.
  // `scratch_folder`: as ResidualStore's.
  LayerInputs(const ModelConfig& config, int32_t max_tokens, int threads,
              const std::atomic<bool>* cancelled, std::string scratch_folder = "",
              int64_t memory_bytes = kResidualMemoryBytes);

  absl::Status Add(MatrixF embeddings);  // of a window's tokens, [tokens, hidden]
  bool empty() const { return residuals_.size() == 0; }
  bool in_file() const { return residuals_.in_file(); }

  // Site by site, in the order of kSites, each once a layer, then Finish: the sums of what arrives
  // at the site under `weights`, whose linears before the site may have changed in between. The
  // sums do not depend on the number of threads. DATA_LOSS, by the site's first tensor, where what
  // arrives is not finite or its squares are not: nothing can be chosen by it.
  absl::StatusOr<InputStats> Measure(Site site, const LayerWeights& weights);
  absl::Status Finish(const LayerWeights& weights);

  // All four sites and Finish in one pass: nothing is computed twice. [number of sites] DATA_LOSS
  // as Measure.
  absl::StatusOr<std::vector<InputStats>> MeasureLayer(const LayerWeights& weights);

  // To the next layer without a look: the same residuals as by the calls above, to the bit.
  absl::Status PassLayer(const LayerWeights& weights);

 private:
  // The states through fn in parallel.
  void Run(std::vector<WindowState>& states, absl::FunctionRef<void(WindowState&)> fn) const;
  // Calls fn with the states of as many windows as are taken at once, until all were; `changes`:
  // whether fn leaves other residuals behind.
  absl::Status InParts(bool changes, absl::FunctionRef<absl::Status(std::vector<WindowState>&)> fn);
  // The inputs of the states, to the sums; DATA_LOSS where they are not finite.
  absl::Status AddInputs(Site site, const std::vector<WindowState>& states,
                         InputStats& stats) const;
  absl::Status NotFinite(Site site) const;
  void Reach(Site site, const LayerWeights& weights, WindowState& state) const;
  void ReachAgain(Site site, const LayerWeights& weights, WindowState& state) const;

  const ModelConfig config_;
  const DecoderLayer forward_;
  const int threads_;
  const std::atomic<bool>* const cancelled_;
  int32_t layer_ = 0;        // that the windows have come to
  ResidualStore residuals_;  // [tokens, hidden], of each window
};

}  // namespace nibble::quantize

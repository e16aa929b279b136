#include "engine/quantize/calibration/layer_inputs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gemm.h"
#include "engine/quantize/methods/parallel.h"

namespace nibble::quantize {
namespace {

// Windows whose inputs are in memory at once, at least: work for every core, and little memory.
// Sums are taken window by window, so their order does not depend on it.
constexpr size_t kWindowsAtOnce = 4;

auto Dense(const LayerWeights& weights) {
  return [&weights](Linear linear, const MatrixF& x) {
    return MultiplyTransposed(x, weights[linear]);
  };
}

}  // namespace

LayerInputs::LayerInputs(const ModelConfig& config, int32_t max_tokens, int threads,
                         const std::atomic<bool>* cancelled, std::string scratch_folder,
                         int64_t memory_bytes)
    : config_(config),
      forward_(config, std::max(1, max_tokens)),
      threads_(threads),
      cancelled_(cancelled),
      residuals_(std::move(scratch_folder), memory_bytes) {}

absl::Status LayerInputs::Add(MatrixF embeddings) { return residuals_.Add(std::move(embeddings)); }

void LayerInputs::Run(std::vector<WindowState>& states,
                      absl::FunctionRef<void(WindowState&)> fn) const {
  ParallelRanges(static_cast<int64_t>(states.size()), 1, threads_,
                 [&](int64_t i, int64_t) { fn(states[i]); });
}

absl::Status LayerInputs::InParts(bool changes,
                                  absl::FunctionRef<absl::Status(std::vector<WindowState>&)> fn) {
  const size_t at_once = std::max(kWindowsAtOnce, static_cast<size_t>(threads_));
  for (size_t first = 0; first < residuals_.size(); first += at_once) {
    if (cancelled_ != nullptr && cancelled_->load()) {
      return absl::CancelledError("stopped before there was an output");
    }
    std::vector<WindowState> states(std::min(at_once, residuals_.size() - first));
    for (size_t i = 0; i < states.size(); ++i) {
      NIBBLE_ASSIGN_OR_RETURN(states[i].x, residuals_.Take(first + i));
    }
    NIBBLE_RETURN_IF_ERROR(fn(states));
    for (size_t i = 0; i < states.size(); ++i) {
      NIBBLE_RETURN_IF_ERROR(residuals_.Return(first + i, std::move(states[i].x), changes));
    }
  }
  return absl::OkStatus();
}

absl::Status LayerInputs::NotFinite(Site site) const {
  return absl::DataLossError(absl::StrCat(
      "tensor '", LinearName(layer_, LinearsOf(site)[0]),
      "': what the calibration text brings to it is beyond f32; is a weight up to here damaged?"));
}

absl::Status LayerInputs::AddInputs(Site site, const std::vector<WindowState>& states,
                                    InputStats& stats) const {
  std::vector<const MatrixF*> inputs;
  for (const WindowState& state : states) {
    if (!state.input.allFinite()) return NotFinite(site);
    inputs.push_back(&state.input);
  }
  stats.Add(inputs, threads_);
  return stats.finite() ? absl::OkStatus() : NotFinite(site);
}

void LayerInputs::Reach(Site site, const LayerWeights& weights, WindowState& state) const {
  forward_.Reach(site, {weights.attention_norm, weights.ffn_norm, weights.bias}, Dense(weights),
                 state);
}

// Up to kFeedForward from the layer's beginning; behind it, where the attention is in the residual,
// from the norm.
void LayerInputs::ReachAgain(Site site, const LayerWeights& weights, WindowState& state) const {
  if (site == Site::kDown) {
    state.input = NormRows(state.x, weights.ffn_norm, config_.rms_epsilon);
    Reach(site, weights, state);
    return;
  }
  for (Site before : kSites) {
    Reach(before, weights, state);
    if (before == site) return;
  }
}

absl::StatusOr<InputStats> LayerInputs::Measure(Site site, const LayerWeights& weights) {
  InputStats stats(ShapeOf(config_, LinearsOf(site)[0]).cols);
  // The way to kFeedForward adds the attention to the residual.
  NIBBLE_RETURN_IF_ERROR(InParts(site == Site::kFeedForward, [&](std::vector<WindowState>& states) {
    Run(states, [&](WindowState& state) { ReachAgain(site, weights, state); });
    return AddInputs(site, states, stats);
  }));
  return stats;
}

absl::Status LayerInputs::Finish(const LayerWeights& weights) {
  ++layer_;
  return InParts(true, [&](std::vector<WindowState>& states) {
    Run(states, [&](WindowState& state) {
      ReachAgain(Site::kDown, weights, state);
      forward_.Finish(Dense(weights), state);
    });
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<InputStats>> LayerInputs::MeasureLayer(const LayerWeights& weights) {
  std::vector<InputStats> stats;
  for (Site site : kSites) stats.emplace_back(ShapeOf(config_, LinearsOf(site)[0]).cols);
  NIBBLE_RETURN_IF_ERROR(InParts(true, [&](std::vector<WindowState>& states) {
    for (Site site : kSites) {
      Run(states, [&](WindowState& state) { Reach(site, weights, state); });
      NIBBLE_RETURN_IF_ERROR(AddInputs(site, states, stats[static_cast<int>(site)]));
    }
    Run(states, [&](WindowState& state) { forward_.Finish(Dense(weights), state); });
    return absl::OkStatus();
  }));
  ++layer_;
  return stats;
}

absl::Status LayerInputs::PassLayer(const LayerWeights& weights) {
  ++layer_;
  return InParts(true, [&](std::vector<WindowState>& states) {
    Run(states, [&](WindowState& state) {
      for (Site site : kSites) Reach(site, weights, state);
      forward_.Finish(Dense(weights), state);
    });
    return absl::OkStatus();
  });
}

}  // namespace nibble::quantize

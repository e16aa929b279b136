#include "engine/quantize/training/quantization_aware.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/methods/parallel.h"
#include "engine/quantize/methods/round_to_nearest.h"
#include "engine/quantize/training/adam.h"
#include "engine/quantize/training/decoder_gradient.h"

namespace nibble::quantize {
namespace {

absl::Status CheckWindows(const ModelConfig& config,
                          absl::Span<const std::vector<int32_t>> windows) {
  if (windows.empty()) return absl::InvalidArgumentError("training needs a calibration text");
  for (const std::vector<int32_t>& window : windows) {
    if (window.empty()) return absl::InvalidArgumentError("training: found an empty window");
    for (int32_t id : window) {
      if (id >= 0 && id < config.vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "training: token id ", id, " is outside the vocabulary of ", config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShapes(const ModelConfig& config, const Scheme& scheme) {
  for (int i = 0; i < kNumLinears; ++i) {
    const LinearShape shape = ShapeOf(config, static_cast<Linear>(i));
    const absl::Status status = CheckShape(scheme, shape.rows, shape.cols);
    if (status.ok()) continue;
    return absl::Status(
        status.code(),
        absl::StrCat("tensor '", LinearName(0, static_cast<Linear>(i)), "': ", status.message()));
  }
  return absl::OkStatus();
}

int32_t Longest(absl::Span<const std::vector<int32_t>> windows) {
  size_t longest = 0;
  for (const std::vector<int32_t>& window : windows) longest = std::max(longest, window.size());
  return static_cast<int32_t>(longest);
}

// Windows in a shuffled order, shuffled anew when all have been seen.
class WindowOrder {
 public:
  WindowOrder(size_t n, uint64_t seed) : random_(seed), order_(n), next_(n) {
    for (size_t i = 0; i < n; ++i) order_[i] = i;
  }
  size_t Next() {
    if (next_ == order_.size()) {
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_() % i]);
      next_ = 0;
    }
    return order_[next_++];
  }

 private:
  std::mt19937_64 random_;
  std::vector<size_t> order_;
  size_t next_;
};

class Training {
 public:
  Training(const ModelConfig& config, const Scheme& scheme, DecoderWeights weights,
           absl::Span<const std::vector<int32_t>> windows, const TrainingOptions& options)
      : config_(config),
        scheme_(scheme),
        options_(options),
        windows_(windows),
        order_(windows.size(), options.seed),
        decoder_(config, Longest(windows)),
        teacher_(std::move(weights)),
        rounded_(teacher_),
        sum_(ZeroGradients(config)),
        of_window_(std::min(options.threads, options.batch), sum_) {
    for (const LayerWeights& layer : teacher_.layers) {
      learned_.emplace_back(std::begin(layer.linear), std::end(layer.linear));
      adam_.emplace_back();
      for (const MatrixF& weight : layer.linear) {
        adam_.back().emplace_back(weight.rows(), weight.cols());
      }
    }
  }

  absl::Status Run() {
    for (int32_t step = 1; step <= options_.steps; ++step) {
      Round();
      const double loss = Gradient();
      const float left =
          static_cast<float>(options_.steps - step + 1) / static_cast<float>(options_.steps);
      ForEachLinear([&](size_t layer, int i) {
        adam_[layer][i].Step(step, options_.learning_rate * left, sum_[layer][i],
                             learned_[layer][i]);
      });
      if (!std::isfinite(loss) || !Finite()) {
        return absl::FailedPreconditionError(
            absl::StrCat("training left the numbers at step ", step, ", with a loss of ", loss,
                         "; a learning rate below ", options_.learning_rate, " may not"));
      }
      if (options_.progress) options_.progress(step, options_.steps, loss);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<LinearReport>> Tell(LayerSink& sink) const {
    std::vector<LinearReport> reports;
    for (size_t layer = 0; layer < learned_.size(); ++layer) {
      for (int i = 0; i < kNumLinears; ++i) {
        const MatrixF& weight = learned_[layer][i];
        const QuantizedWeight quantized = RoundToNearest(weight, scheme_, options_.threads);
        const MatrixF values = Dequantize(quantized);
        LinearReport report;
        report.name = LinearName(static_cast<int32_t>(layer), static_cast<Linear>(i));
        report.elements = weight.size();
        report.bits = BitsPerWeight(scheme_, quantized.rows, quantized.cols);
        report.noise_db = SignalToNoise(teacher_.layers[layer].linear[i], values);
        NIBBLE_RETURN_IF_ERROR(sink.Matrix(report.name, values, &quantized));
        reports.push_back(std::move(report));
      }
    }
    return reports;
  }

 private:
  template <class Fn>
  void ForEachLinear(Fn fn) {
    ParallelRanges(static_cast<int64_t>(learned_.size()) * kNumLinears, 1, options_.threads,
                   [&](int64_t at, int64_t) {
                     fn(static_cast<size_t>(at / kNumLinears), static_cast<int>(at % kNumLinears));
                   });
  }

  void Round() {
    ForEachLinear([&](size_t layer, int i) {
      rounded_.layers[layer].linear[i] = Dequantize(RoundToNearest(learned_[layer][i], scheme_, 1));
    });
  }

  bool Finite() const {
    for (const std::vector<MatrixF>& layer : learned_) {
      for (const MatrixF& weight : layer) {
        if (!weight.allFinite()) return false;
      }
    }
    return true;
  }

  // Of the batch, into sum_; returns the mean loss. Windows are added in their order, so that the
  // sums do not depend on the number of threads.
  double Gradient() {
    double loss = 0;
    ForEachLinear([&](size_t layer, int i) { sum_[layer][i].setZero(); });
    const auto at_once = static_cast<int32_t>(of_window_.size());
    for (int32_t first = 0; first < options_.batch; first += at_once) {
      const int32_t n = std::min(at_once, options_.batch - first);
      std::vector<size_t> chosen(n);
      for (size_t& window : chosen) window = order_.Next();
      std::vector<double> losses(n);
      ParallelRanges(n, 1, options_.threads, [&](int64_t i, int64_t) {
        for (auto& layer : of_window_[i]) {
          for (MatrixF& gradient : layer) gradient.setZero();
        }
        const std::vector<int32_t>& ids = windows_[chosen[i]];
        losses[i] =
            decoder_.AddGradient(rounded_, ids, decoder_.Logits(teacher_, ids), of_window_[i]);
      });
      for (int32_t i = 0; i < n; ++i) {
        loss += losses[i] / options_.batch;
        ForEachLinear([&](size_t layer, int linear) {
          sum_[layer][linear] += of_window_[i][layer][linear] / static_cast<float>(options_.batch);
        });
      }
    }
    return loss;
  }

  const ModelConfig& config_;
  const Scheme& scheme_;
  const TrainingOptions& options_;
  const absl::Span<const std::vector<int32_t>> windows_;
  WindowOrder order_;
  const DecoderGradient decoder_;
  const DecoderWeights teacher_;
  DecoderWeights rounded_;  // what runs: the learned weights on the grid
  std::vector<std::vector<MatrixF>> learned_;
  std::vector<std::vector<Adam>> adam_;
  LinearGradients sum_;
  std::vector<LinearGradients> of_window_;
};

}  // namespace

absl::StatusOr<std::vector<LinearReport>> TrainQuantized(
    const WeightSource& source, const ModelConfig& config, const Scheme& scheme,
    absl::Span<const std::vector<int32_t>> windows, const TrainingOptions& options,
    LayerSink& sink) {
  NIBBLE_RETURN_IF_ERROR(CheckWindows(config, windows));
  NIBBLE_RETURN_IF_ERROR(CheckShapes(config, scheme));
  NIBBLE_ASSIGN_OR_RETURN(DecoderWeights weights, LoadDecoder(source, config));
  Training training(config, scheme, std::move(weights), windows, options);
  NIBBLE_RETURN_IF_ERROR(training.Run());
  return training.Tell(sink);
}

}  // namespace nibble::quantize

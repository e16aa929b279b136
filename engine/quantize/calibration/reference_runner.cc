#include "engine/quantize/calibration/reference_runner.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gemm.h"

namespace nibble::quantize {
namespace {

constexpr int32_t kBlock = 16;  // of the cache there is not; limits() must name a size

struct Layer {
  VectorF attention_norm, ffn_norm;
  VectorF bias[3];
  std::unique_ptr<LinearOp> ops[kNumLinears];
};

class ReferenceRunner : public LogitsRunner {
 public:
  ReferenceRunner(const ModelConfig& config, int32_t max_context)
      : config_(config), max_context_(max_context), forward_(config, max_context) {}

  absl::Status Load(const WeightSource& source, OpFactory make_op) {
    for (int32_t i = 0; i < config_.num_layers; ++i) {
      NIBBLE_ASSIGN_OR_RETURN(LayerWeights weights, LoadLayer(source, config_, i));
      Layer layer;
      layer.attention_norm = std::move(weights.attention_norm);
      layer.ffn_norm = std::move(weights.ffn_norm);
      std::move(weights.bias, weights.bias + 3, layer.bias);
      for (int l = 0; l < kNumLinears; ++l) {
        layer.ops[l] = make_op(i, static_cast<Linear>(l), std::move(weights.linear[l]));
      }
      layers_.push_back(std::move(layer));
    }
    const int32_t vocab = config_.vocab_size, hidden = config_.hidden_size;
    NIBBLE_ASSIGN_OR_RETURN(embedding_, LoadDense(source, "token_embd.weight", vocab, hidden));
    if (!config_.tied_head) {
      NIBBLE_ASSIGN_OR_RETURN(head_, LoadDense(source, "output.weight", vocab, hidden));
    }
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> norm,
                            source.LoadVector("output_norm.weight", hidden));
    final_norm_ = Eigen::Map<const VectorF>(norm.data(), hidden);
    return absl::OkStatus();
  }

  RunnerLimits limits() const override {
    RunnerLimits limits;
    limits.vocab_size = config_.vocab_size;
    limits.max_context = max_context_;
    limits.block_size = kBlock;
    limits.num_blocks = (max_context_ + kBlock - 1) / kBlock;
    limits.max_batch_tokens = max_context_;
    limits.max_sequences = 1;
    return limits;
  }

  absl::StatusOr<StepResult> Run(const Batch&) override {
    return absl::UnimplementedError("the reference draws no tokens");
  }

  absl::Status RunForLogits(const Batch& batch, LogitsVisitor visit) override {
    if (batch.rows.empty()) return absl::OkStatus();
    if (batch.rows.size() > 1) {
      return absl::UnimplementedError("the reference runs one sequence at a time");
    }
    const BatchRow& row = batch.rows[0];
    const int32_t end = row.num_computed + row.num_scheduled;
    const MatrixF x = Hidden(row.tokens.subspan(0, end));
    const int32_t first = std::max(row.num_computed, row.prompt_scored);
    if (first >= end) return absl::OkStatus();
    const MatrixF normed =
        NormRows(x.middleRows(first, end - first), final_norm_, config_.rms_epsilon);
    const MatrixF logits = MultiplyTransposed(normed, head_.size() > 0 ? head_ : embedding_);
    for (int32_t p = first; p < end; ++p) {
      visit(0, p, absl::MakeConstSpan(logits.row(p - first).data(), config_.vocab_size));
    }
    return absl::OkStatus();
  }

 private:
  MatrixF Hidden(absl::Span<const int32_t> ids) const {
    WindowState state;
    state.x.resize(static_cast<int64_t>(ids.size()), config_.hidden_size);
    for (size_t i = 0; i < ids.size(); ++i) {
      state.x.row(static_cast<int64_t>(i)) = embedding_.row(ids[i]);
    }
    for (const Layer& layer : layers_) {
      const auto apply = [&](Linear linear, const MatrixF& x) {
        return layer.ops[static_cast<int>(linear)]->Apply(x);
      };
      const DecoderLayer::Vectors vectors{layer.attention_norm, layer.ffn_norm, layer.bias};
      for (Site site : kSites) forward_.Reach(site, vectors, apply, state);
      forward_.Finish(apply, state);
    }
    return std::move(state.x);
  }

  const ModelConfig config_;
  const int32_t max_context_;
  const DecoderLayer forward_;
  std::vector<Layer> layers_;
  MatrixF embedding_, head_;  // head_ empty: tied
  VectorF final_norm_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LogitsRunner>> MakeReferenceRunner(const WeightSource& source,
                                                                  const ModelConfig& config,
                                                                  int32_t max_context,
                                                                  OpFactory make_op) {
  auto runner = std::make_unique<ReferenceRunner>(config, max_context);
  NIBBLE_RETURN_IF_ERROR(runner->Load(source, make_op));
  return std::unique_ptr<LogitsRunner>(std::move(runner));
}

}  // namespace nibble::quantize

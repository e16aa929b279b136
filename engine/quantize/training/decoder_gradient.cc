#include "engine/quantize/training/decoder_gradient.h"

#include <cmath>

#include "engine/base/status_macros.h"
#include "engine/quantize/methods/gemm.h"
#include "kernels/check.h"

namespace nibble::quantize {
namespace {

// a b, by the product that is compiled for this machine.
MatrixF Times(const MatrixF& a, const MatrixF& b) { return MultiplyTransposed(a, b.transpose()); }

// dy^T x: what a linear's gradient is.
MatrixF Outer(const MatrixF& dy, const MatrixF& x) {
  return MultiplyTransposed(dy.transpose(), x.transpose());
}

// d loss / dx of NormRows(x, weight), from that of its result.
MatrixF NormBack(const MatrixF& x, const VectorF& weight, float epsilon, const MatrixF& dy) {
  const auto n = static_cast<float>(x.cols());
  const VectorF scale = (x.rowwise().squaredNorm().array() / n + epsilon).rsqrt();
  MatrixF scaled = dy;
  scaled.array().rowwise() *= weight.transpose().array();
  const VectorF along = (scaled.array() * x.array()).rowwise().sum();
  const VectorF back = scale.array().cube() * along.array() / n;
  MatrixF dx = scaled.array().colwise() * scale.array();
  dx.array() -= x.array().colwise() * back.array();
  return dx;
}

// Log of the softmax of each row.
MatrixF LogSoftmax(const MatrixF& logits) {
  MatrixF result(logits.rows(), logits.cols());
  for (int64_t i = 0; i < logits.rows(); ++i) {
    const float largest = logits.row(i).maxCoeff();
    const float log_sum = std::log((logits.row(i).array() - largest).exp().sum());
    result.row(i) = logits.row(i).array() - (largest + log_sum);
  }
  return result;
}

}  // namespace

// The residual before either norm, and what went into and came out of linears.
struct DecoderGradient::Kept {
  MatrixF x, x_middle;
  MatrixF input[kNumLinears];  // of the first linear of each site
  MatrixF output[kNumLinears];
};

absl::StatusOr<DecoderWeights> LoadDecoder(const WeightSource& source, const ModelConfig& config) {
  DecoderWeights weights;
  NIBBLE_ASSIGN_OR_RETURN(weights.embedding, LoadDense(source, "token_embd.weight",
                                                       config.vocab_size, config.hidden_size));
  if (!config.tied_head) {
    NIBBLE_ASSIGN_OR_RETURN(
        weights.head, LoadDense(source, "output.weight", config.vocab_size, config.hidden_size));
  }
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> norm,
                          source.LoadVector("output_norm.weight", config.hidden_size));
  weights.output_norm = VectorF(Eigen::Map<const VectorF>(norm.data(), config.hidden_size));
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    NIBBLE_ASSIGN_OR_RETURN(LayerWeights of_layer, LoadLayer(source, config, layer));
    weights.layers.push_back(std::move(of_layer));
  }
  return weights;
}

LinearGradients ZeroGradients(const ModelConfig& config) {
  LinearGradients gradients(config.num_layers);
  for (auto& layer : gradients) {
    for (int i = 0; i < kNumLinears; ++i) {
      const LinearShape shape = ShapeOf(config, static_cast<Linear>(i));
      layer[i] = MatrixF::Zero(shape.rows, shape.cols);
    }
  }
  return gradients;
}

// The residual after the last layer.
MatrixF DecoderGradient::Forward(const DecoderWeights& weights, absl::Span<const int32_t> ids,
                                 std::vector<Kept>* kept) const {
  WindowState state;
  state.x.resize(static_cast<int64_t>(ids.size()), config_.hidden_size);
  for (size_t t = 0; t < ids.size(); ++t) state.x.row(t) = weights.embedding.row(ids[t]);
  for (const LayerWeights& layer : weights.layers) {
    Kept now;
    const auto apply = [&](Linear linear, const MatrixF& x) {
      MatrixF y = MultiplyTransposed(x, layer[linear]);
      if (kept == nullptr) return y;
      const auto i = static_cast<size_t>(linear);
      if (LinearsOf(SiteOf(linear)).front() == linear) now.input[i] = x;
      if (linear != Linear::kO && linear != Linear::kDown) now.output[i] = y;
      return y;
    };
    const DecoderLayer::Vectors vectors{layer.attention_norm, layer.ffn_norm, layer.bias};
    if (kept != nullptr) now.x = state.x;
    for (Site site : kSites) {
      layer_.Reach(site, vectors, apply, state);
      if (kept != nullptr && site == Site::kFeedForward) now.x_middle = state.x;
    }
    layer_.Finish(apply, state);
    if (kept == nullptr) continue;
    for (int i = 0; i < 3; ++i) {  // Reach adds biases to what `apply` returned
      if (layer.bias[i].size() > 0) now.output[i].rowwise() += layer.bias[i].transpose();
    }
    kept->push_back(std::move(now));
  }
  return std::move(state.x);
}

MatrixF DecoderGradient::Logits(const DecoderWeights& weights,
                                absl::Span<const int32_t> ids) const {
  const MatrixF x = Forward(weights, ids, nullptr);
  return MultiplyTransposed(NormRows(x, weights.output_norm, config_.rms_epsilon),
                            weights.output());
}

double DecoderGradient::AddGradient(const DecoderWeights& weights, absl::Span<const int32_t> ids,
                                    const MatrixF& teacher, LinearGradients& gradients) const {
  NIBBLE_CHECK(teacher.rows() == static_cast<int64_t>(ids.size()));
  std::vector<Kept> kept;
  const MatrixF x = Forward(weights, ids, &kept);
  const MatrixF logits =
      MultiplyTransposed(NormRows(x, weights.output_norm, config_.rms_epsilon), weights.output());
  const MatrixF wanted = LogSoftmax(teacher), found = LogSoftmax(logits);
  const MatrixF p = wanted.array().exp();
  const auto tokens = static_cast<float>(ids.size());
  const double loss =
      (p.array() * (wanted - found).array()).cast<double>().sum() / static_cast<double>(tokens);
  const MatrixF d_logits = (found.array().exp() - p.array()) / tokens;
  MatrixF dx =
      NormBack(x, weights.output_norm, config_.rms_epsilon, Times(d_logits, weights.output()));
  for (size_t i = weights.layers.size(); i-- > 0;) {
    LayerBack(weights.layers[i], kept[i], dx, gradients[i]);
  }
  return loss;
}

// `dx`: by the layer's result, on return by its input.
void DecoderGradient::LayerBack(const LayerWeights& weights, const Kept& kept, MatrixF& dx,
                                std::array<MatrixF, kNumLinears>& gradients) const {
  const auto in = [&](Linear first) -> const MatrixF& {
    return kept.input[static_cast<int>(first)];
  };
  const auto out = [&](Linear linear) { return kept.output[static_cast<int>(linear)].array(); };
  const auto back = [&](Linear linear, const MatrixF& dy, const MatrixF& x) {
    gradients[static_cast<int>(linear)] += Outer(dy, x);
    return Times(dy, weights[linear]);
  };
  const MatrixF d_gated = back(Linear::kDown, dx, in(Linear::kDown));
  const MatrixF sigmoid = 1 / (1 + (-out(Linear::kGate)).exp());
  const MatrixF d_up = d_gated.array() * out(Linear::kGate) * sigmoid.array();
  const MatrixF d_gate = d_gated.array() * out(Linear::kUp) * sigmoid.array() *
                         (1 + out(Linear::kGate) * (1 - sigmoid.array()));
  MatrixF d_input = back(Linear::kGate, d_gate, in(Linear::kGate));
  d_input += back(Linear::kUp, d_up, in(Linear::kGate));
  dx += NormBack(kept.x_middle, weights.ffn_norm, config_.rms_epsilon, d_input);

  const MatrixF d_attended = back(Linear::kO, dx, in(Linear::kO));
  MatrixF dq, dk, dv;
  AttentionBack(kept, d_attended, dq, dk, dv);
  d_input = back(Linear::kQ, dq, in(Linear::kQ));
  d_input += back(Linear::kK, dk, in(Linear::kQ));
  d_input += back(Linear::kV, dv, in(Linear::kQ));
  dx += NormBack(kept.x, weights.attention_norm, config_.rms_epsilon, d_input);
}

void DecoderGradient::AttentionBack(const Kept& kept, const MatrixF& d_out, MatrixF& dq,
                                    MatrixF& dk, MatrixF& dv) const {
  MatrixF q = kept.output[0], k = kept.output[1];
  const MatrixF& v = kept.output[2];
  layer_.Rotate(q);
  layer_.Rotate(k);
  const int32_t dim = config_.head_dim, share = config_.num_heads / config_.num_kv_heads;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  q *= scale;
  dq.resize(q.rows(), q.cols());
  dk = MatrixF::Zero(k.rows(), k.cols());
  dv = MatrixF::Zero(v.rows(), v.cols());
  for (int32_t h = 0; h < config_.num_heads; ++h) {
    const int64_t at = int64_t{h} * dim, kv = int64_t{h / share} * dim;
    const MatrixF p = layer_.Probabilities(q, k, h, 0, q.rows());
    const MatrixF d_head = d_out.middleCols(at, dim);
    const MatrixF dp = MultiplyTransposed(d_head, v.middleCols(kv, dim));
    const VectorF mean = (dp.array() * p.array()).rowwise().sum();
    const MatrixF ds = p.array() * (dp.array().colwise() - mean.array());
    dv.middleCols(kv, dim) += Outer(p, d_head);
    dk.middleCols(kv, dim) += Outer(ds, q.middleCols(at, dim));
    dq.middleCols(at, dim) = scale * Times(ds, k.middleCols(kv, dim));
  }
  layer_.Rotate(dq, -1);
  layer_.Rotate(dk, -1);
}

}  // namespace nibble::quantize

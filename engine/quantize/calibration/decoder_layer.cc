#include "engine/quantize/calibration/decoder_layer.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/rope_table.h"
#include "engine/quantize/methods/gemm.h"

namespace nibble::quantize {
namespace {

constexpr const char* kLinearNames[kNumLinears] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                   "ffn_gate", "ffn_up", "ffn_down"};

absl::StatusOr<VectorF> LoadDenseVector(const WeightSource& source, const std::string& name,
                                        int32_t n) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, source.LoadVector(name, n));
  return VectorF(Eigen::Map<const VectorF>(values.data(), n));
}

MatrixF Biased(MatrixF y, const VectorF& bias) {
  if (bias.size() > 0) y.rowwise() += bias.transpose();
  return y;
}

// silu(gate) * up
MatrixF Gated(const MatrixF& gate, const MatrixF& up) {
  return gate.array() / (1 + (-gate.array()).exp()) * up.array();
}

// Softmax of what each row's token may see, the rest 0; row 0 is of the token at `first`.
void SoftmaxCausal(int64_t first, MatrixF& scores) {
  for (int64_t i = 0; i < scores.rows(); ++i) {
    const int64_t n = first + i + 1;
    auto seen = scores.row(i).head(n);
    seen = (seen.array() - seen.maxCoeff()).exp();
    seen /= seen.sum();
    scores.row(i).tail(scores.cols() - n).setZero();
  }
}

// Queries whose scores are computed together: products of fewer are slower, of more no faster; in
// whole blocks of the products' kernels.
constexpr int64_t kMostQueries = 512, kFewestQueries = 8;

}  // namespace

std::vector<Linear> LinearsOf(Site site) {
  switch (site) {
    case Site::kAttention:
      return {Linear::kQ, Linear::kK, Linear::kV};
    case Site::kOutput:
      return {Linear::kO};
    case Site::kFeedForward:
      return {Linear::kGate, Linear::kUp};
    case Site::kDown:
      return {Linear::kDown};
  }
  return {};
}

Site SiteOf(Linear linear) {
  if (linear <= Linear::kV) return Site::kAttention;
  if (linear == Linear::kO) return Site::kOutput;
  return linear == Linear::kDown ? Site::kDown : Site::kFeedForward;
}

std::string LinearName(int32_t layer, Linear linear) {
  return absl::StrCat("blk.", layer, ".", kLinearNames[static_cast<int>(linear)], ".weight");
}

std::string NormName(int32_t layer, Site site) {
  return absl::StrCat("blk.", layer, site == Site::kAttention ? ".attn_norm" : ".ffn_norm",
                      ".weight");
}

LinearShape ShapeOf(const ModelConfig& config, Linear linear) {
  const int32_t hidden = config.hidden_size, q = config.num_heads * config.head_dim;
  switch (linear) {
    case Linear::kQ:
      return {q, hidden};
    case Linear::kK:
    case Linear::kV:
      return {config.num_kv_heads * config.head_dim, hidden};
    case Linear::kO:
      return {hidden, q};
    case Linear::kGate:
    case Linear::kUp:
      return {config.ffn_size, hidden};
    case Linear::kDown:
      return {hidden, config.ffn_size};
  }
  return {};
}

absl::StatusOr<MatrixF> LoadDense(const WeightSource& source, const std::string& name, int32_t rows,
                                  int32_t cols) {
  NIBBLE_ASSIGN_OR_RETURN(const quant::Matrix matrix, source.LoadMatrix(name, rows, cols));
  MatrixF dense(rows, cols);
  for (int32_t n = 0; n < rows; ++n) quant::DequantizeRow(matrix, n, dense.row(n).data());
  return dense;
}

absl::StatusOr<LayerWeights> LoadLayer(const WeightSource& source, const ModelConfig& config,
                                       int32_t layer) {
  LayerWeights weights;
  for (int i = 0; i < kNumLinears; ++i) {
    const auto linear = static_cast<Linear>(i);
    const LinearShape shape = ShapeOf(config, linear);
    NIBBLE_ASSIGN_OR_RETURN(weights.linear[i],
                            LoadDense(source, LinearName(layer, linear), shape.rows, shape.cols));
    if (i > static_cast<int>(Linear::kV) || !config.qkv_bias) continue;
    const std::string bias = absl::StrCat("blk.", layer, ".", kLinearNames[i], ".bias");
    NIBBLE_ASSIGN_OR_RETURN(weights.bias[i], LoadDenseVector(source, bias, shape.rows));
  }
  NIBBLE_ASSIGN_OR_RETURN(
      weights.attention_norm,
      LoadDenseVector(source, NormName(layer, Site::kAttention), config.hidden_size));
  NIBBLE_ASSIGN_OR_RETURN(
      weights.ffn_norm,
      LoadDenseVector(source, NormName(layer, Site::kFeedForward), config.hidden_size));
  return weights;
}

MatrixF NormRows(const MatrixF& x, const VectorF& weight, float epsilon) {
  const VectorF scale =
      (x.rowwise().squaredNorm().array() / static_cast<float>(x.cols()) + epsilon).rsqrt();
  MatrixF y = x.array().colwise() * scale.array();
  y.array().rowwise() *= weight.transpose().array();
  return y;
}

DecoderLayer::DecoderLayer(const ModelConfig& config, int32_t max_tokens, int64_t max_scores)
    : config_(config), max_scores_(max_scores), cos_sin_(MakeRopeTable(config, max_tokens)) {}

void DecoderLayer::Reach(Site site, const Vectors& vectors, Apply apply, WindowState& state) const {
  switch (site) {
    case Site::kAttention:
      state.input = NormRows(state.x, vectors.attention_norm, config_.rms_epsilon);
      return;
    case Site::kOutput:
      state.input = Attend(Biased(apply(Linear::kQ, state.input), vectors.bias[0]),
                           Biased(apply(Linear::kK, state.input), vectors.bias[1]),
                           Biased(apply(Linear::kV, state.input), vectors.bias[2]));
      return;
    case Site::kFeedForward:
      state.x += apply(Linear::kO, state.input);
      state.input = NormRows(state.x, vectors.ffn_norm, config_.rms_epsilon);
      return;
    case Site::kDown:
      state.input = Gated(apply(Linear::kGate, state.input), apply(Linear::kUp, state.input));
      return;
  }
}

void DecoderLayer::Finish(Apply apply, WindowState& state) const {
  state.x += apply(Linear::kDown, state.input);
  state.input.resize(0, 0);
}

void DecoderLayer::Rotate(MatrixF& heads, float direction) const {
  const int32_t half = config_.rotary_dim / 2;
  const bool interleaved = config_.rope_layout == RopeLayout::kInterleaved;
  for (int64_t p = 0; p < heads.rows(); ++p) {
    const float* angle = &cos_sin_[p * config_.rotary_dim];
    for (int64_t head = 0; head < heads.cols(); head += config_.head_dim) {
      for (int32_t i = 0; i < half; ++i) {
        float& a = heads(p, head + (interleaved ? 2 * i : i));
        float& b = heads(p, head + (interleaved ? 2 * i + 1 : i + half));
        const float cos = angle[2 * i], sin = direction * angle[2 * i + 1], a0 = a;
        a = a0 * cos - b * sin;
        b = a0 * sin + b * cos;
      }
    }
  }
}

MatrixF DecoderLayer::Probabilities(const MatrixF& queries, const MatrixF& keys, int32_t head,
                                    int64_t first, int64_t count) const {
  const int32_t dim = config_.head_dim, share = config_.num_heads / config_.num_kv_heads;
  MatrixF scores =
      MultiplyTransposed(queries.block(first, int64_t{head} * dim, count, dim),
                         keys.block(0, int64_t{head / share} * dim, first + count, dim));
  SoftmaxCausal(first, scores);
  return scores;
}

MatrixF DecoderLayer::Attend(const MatrixF& q, const MatrixF& k, const MatrixF& v) const {
  MatrixF queries = q, keys = k;
  Rotate(queries);
  Rotate(keys);
  const int32_t dim = config_.head_dim, share = config_.num_heads / config_.num_kv_heads;
  queries *= 1 / std::sqrt(static_cast<float>(dim));
  MatrixF out(q.rows(), q.cols());
  const int64_t fitting = std::min(kMostQueries, max_scores_ / std::max<int64_t>(1, q.rows()));
  const int64_t at_once = std::max<int64_t>(1, fitting / kFewestQueries) * kFewestQueries;
  for (int64_t first = 0; first < q.rows(); first += at_once) {
    const int64_t count = std::min(at_once, q.rows() - first);
    for (int32_t h = 0; h < config_.num_heads; ++h) {
      out.block(first, int64_t{h} * dim, count, dim) =
          MultiplyTransposed(Probabilities(queries, keys, h, first, count),
                             v.block(0, int64_t{h / share} * dim, first + count, dim).transpose());
    }
  }
  return out;
}

}  // namespace nibble::quantize

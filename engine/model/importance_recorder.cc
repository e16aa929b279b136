#include "engine/model/importance_recorder.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace nibble {
namespace {

constexpr int32_t kLinearsALayer = 4;

// The factor that RmsNorm gives a row; 1 where the linear does not normalize.
double NormFactor(const LinearParams& linear, const float* row) {
  if (linear.norm_weight == nullptr) return 1;
  double squares = 0;
  for (int32_t k = 0; k < linear.x.cols; ++k) squares += static_cast<double>(row[k]) * row[k];
  return 1 / std::sqrt(squares / linear.x.cols + linear.norm_epsilon);
}

}  // namespace

ImportanceRecorder::ImportanceRecorder(std::unique_ptr<Backend> inner, const ModelConfig& config)
    : inner_(std::move(inner)), num_layers_(config.num_layers), tied_head_(config.tied_head) {}

void ImportanceRecorder::Embed(const EmbedParams& params) {
  next_linear_ = 0;  // a step begins with it
  inner_->Embed(params);
}

std::vector<std::string> ImportanceRecorder::WeightNames() const {
  const int32_t layer = next_linear_ / kLinearsALayer;
  if (layer >= num_layers_) return {tied_head_ ? "token_embd.weight" : "output.weight"};
  const std::string prefix = absl::StrCat("blk.", layer, ".");
  switch (next_linear_ % kLinearsALayer) {
    case 0:
      return {prefix + "attn_q.weight", prefix + "attn_k.weight", prefix + "attn_v.weight"};
    case 1:
      return {prefix + "attn_output.weight"};
    case 2:
      return {prefix + "ffn_gate.weight", prefix + "ffn_up.weight"};
    default:
      return {prefix + "ffn_down.weight"};
  }
}

void ImportanceRecorder::Linear(const LinearParams& params) {
  const int32_t cols = params.x.cols;
  std::vector<double> sums(static_cast<size_t>(cols));
  for (int32_t r = 0; r < params.x.rows; ++r) {
    const float* row = params.x.f32_row(r);
    const double factor = NormFactor(params, row);
    for (int32_t k = 0; k < cols; ++k) {
      const double weight = params.norm_weight != nullptr ? params.norm_weight[k] : 1;
      const double value = row[k] * factor * weight;
      sums[k] += value * value;
    }
  }
  for (const std::string& name : WeightNames()) {
    ColumnSquares& squares = squares_[name];
    squares.sums.resize(static_cast<size_t>(cols));
    squares.rows += params.x.rows;
    for (int32_t k = 0; k < cols; ++k) squares.sums[k] += sums[k];
  }
  // The head may come in several calls; all of them are past the last layer.
  ++next_linear_;
  inner_->Linear(params);
}

}  // namespace nibble

// What training needs of a decoder: how its distributions differ from a teacher's, and the gradient
// of that by every linear, by backpropagation through the calibration's forward (decoder_layer.h).
//
// Attention's probabilities are computed a second time on the way back instead of being kept: heads
// * tokens^2 would be most of the memory.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/model/model_config.h"
#include "engine/quantize/calibration/decoder_layer.h"
#include "engine/quantize/methods/dense.h"
#include "engine/weights/weight_source.h"

namespace nibble::quantize {

struct DecoderWeights {
  MatrixF embedding;  // [vocab, hidden]
  MatrixF head;       // [vocab, hidden]; empty where it is the embedding
  VectorF output_norm;
  std::vector<LayerWeights> layers;

  const MatrixF& output() const { return head.size() > 0 ? head : embedding; }
};
// Dequantized, all of the model in f32. Errors of the source.
absl::StatusOr<DecoderWeights> LoadDecoder(const WeightSource& source, const ModelConfig& config);

// By layer and linear, shaped as the weights.
using LinearGradients = std::vector<std::array<MatrixF, kNumLinears>>;
LinearGradients ZeroGradients(const ModelConfig& config);

// Const calls may run at the same time. Cost of AddGradient: about three forwards.
class DecoderGradient {
 public:
  // For windows of at most `max_tokens`.
  DecoderGradient(const ModelConfig& config, int32_t max_tokens)
      : config_(config), layer_(config, max_tokens) {}

  // [tokens, vocab]. REQUIRES 1 <= ids.size() <= max_tokens, ids within the vocabulary.
  MatrixF Logits(const DecoderWeights& weights, absl::Span<const int32_t> ids) const;

  // KL(teacher || weights), nats a position, the mean over the window; its gradient by the linears
  // is added to `gradients`. `teacher`: the teacher's logits of the same ids.
  double AddGradient(const DecoderWeights& weights, absl::Span<const int32_t> ids,
                     const MatrixF& teacher, LinearGradients& gradients) const;

 private:
  struct Kept;  // of a layer, from the way forward

  MatrixF Forward(const DecoderWeights& weights, absl::Span<const int32_t> ids,
                  std::vector<Kept>* kept) const;
  void LayerBack(const LayerWeights& weights, const Kept& kept, MatrixF& dx,
                 std::array<MatrixF, kNumLinears>& gradients) const;
  void AttentionBack(const Kept& kept, const MatrixF& d_out, MatrixF& dq, MatrixF& dk,
                     MatrixF& dv) const;

  const ModelConfig config_;
  const DecoderLayer layer_;
};

}  // namespace nibble::quantize

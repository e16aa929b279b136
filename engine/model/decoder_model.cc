#include "engine/model/decoder_model.h"

#include <cmath>

namespace nibble {
namespace {

// A linear over the normalized rows of x.
LinearParams Project(const Tensor& x, const DeviceBuffer& norm, float epsilon,
                     absl::Span<const PackedMatrix* const> weights, const Tensor& y) {
  LinearParams linear;
  linear.x = x;
  linear.norm_weight = static_cast<const float*>(norm.data());
  linear.norm_epsilon = epsilon;
  linear.weights = weights;
  linear.y = y;
  return linear;
}

void ProjectOnto(Backend& backend, const Tensor& x, const PackedMatrix* weight,
                 const Tensor& residual) {
  LinearParams linear;
  linear.x = x;
  linear.weights = absl::MakeConstSpan(&weight, 1);
  linear.y = residual;
  linear.accumulate = true;
  backend.Linear(linear);
}

}  // namespace

int64_t DecoderModel::layer_bytes() const {
  int64_t bytes = final_norm_.size_bytes();
  for (const Layer& layer : layers_) {
    for (const DeviceBuffer* vector : {&layer.attention_norm, &layer.qkv_bias, &layer.ffn_norm}) {
      bytes += vector->size_bytes();
    }
    for (const Weight* weight :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      bytes += (*weight)->size_bytes();
    }
  }
  return bytes;
}

int64_t DecoderModel::head_bytes() const {
  return (head_ != nullptr ? head_ : embedding_)->size_bytes();
}

void DecoderModel::Forward(Backend& backend, const StepInput& input, const int32_t* drawn,
                           const KvCache& cache, const Workspace& space,
                           std::atomic<int64_t>& layers_run) const {
  EmbedParams embed;
  embed.table = embedding_.get();
  embed.ids = input.ids();
  embed.drawn = drawn;
  embed.out = space.hidden.rows(input.num_tokens());
  backend.Embed(embed);

  for (int32_t i = 0; i < config_.num_layers; ++i) {
    Attend(backend, layers_[i], cache.layer(i), input, space);
    FeedForward(backend, layers_[i], input.num_tokens(), space);
    backend.CountLayer(layers_run);
  }
}

// hidden += o(attention(rope(q, k), v)) of the normalized hidden
void DecoderModel::Attend(Backend& backend, const Layer& layer, const KvLayer& cache,
                          const StepInput& input, const Workspace& space) const {
  const int32_t n = input.num_tokens();
  const PackedMatrix* const qkv_weights[] = {layer.q.get(), layer.k.get(), layer.v.get()};
  const Tensor qkv = space.qkv.rows(n);
  LinearParams project =
      Project(space.hidden.rows(n), layer.attention_norm, config_.rms_epsilon, qkv_weights, qkv);
  project.bias = static_cast<const float*>(layer.qkv_bias.data());
  backend.Linear(project);

  RopeStoreKvParams rope;
  rope.qkv = qkv;
  rope.num_heads = config_.num_heads;
  rope.rotary_dim = config_.rotary_dim;
  rope.layout = config_.rope_layout;
  rope.cos_sin = static_cast<const float*>(cos_sin_.data());
  rope.positions = input.positions();
  rope.slots = input.slots();
  rope.cache = cache;
  backend.RopeStoreKv(rope);

  AttentionParams attention;
  attention.q = qkv;
  attention.q.cols = config_.num_heads * config_.head_dim;
  attention.num_heads = config_.num_heads;
  attention.cache = cache;
  attention.num_seqs = input.num_sequences();
  attention.max_blocks = input.max_blocks();
  attention.cu_seqlens_q = input.cu_seqlens();
  attention.context_lens = input.context_lens();
  attention.block_table = input.block_table();
  attention.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  attention.out = space.attended.rows(n);
  backend.Attention(attention);
  ProjectOnto(backend, attention.out, layer.o.get(), space.hidden.rows(n));
}

// hidden += down(silu(gate) * up) of the normalized hidden
void DecoderModel::FeedForward(Backend& backend, const Layer& layer, int32_t n,
                               const Workspace& space) const {
  const PackedMatrix* const gate_up_weights[] = {layer.gate.get(), layer.up.get()};
  const Tensor activated = space.activated.rows(n);
  LinearParams gate_up = Project(space.hidden.rows(n), layer.ffn_norm, config_.rms_epsilon,
                                 gate_up_weights, activated);
  gate_up.gated = true;
  backend.Linear(gate_up);
  ProjectOnto(backend, activated, layer.down.get(), space.hidden.rows(n));
}

Tensor DecoderModel::Logits(Backend& backend, const StepInput& input, const int32_t* rows,
                            int32_t n, const Workspace& space) const {
  GatherRowsParams gather;
  gather.x = space.hidden.rows(input.num_tokens());
  gather.rows = rows;
  gather.out = space.last.rows(n);
  backend.GatherRows(gather);
  const PackedMatrix* const head = head_ != nullptr ? head_.get() : embedding_.get();
  const Tensor logits = space.logits.rows(n);
  backend.Linear(
      Project(gather.out, final_norm_, config_.rms_epsilon, absl::MakeConstSpan(&head, 1), logits));
  return logits;
}

}  // namespace nibble

// DecoderModel::Load: GGUF tensor names to packed weights.

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/clock.h"
#include "engine/base/status_macros.h"
#include "engine/model/decoder_model.h"
#include "engine/model/matrix_loader.h"
#include "engine/model/rope_table.h"

namespace nibble {

absl::Status CheckConfig(const ModelConfig& config, int32_t max_context) {
  const auto refuse = [](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat("model config: ", parts...));
  };
  const std::pair<const char*, int32_t> positive[] = {
      {"num_layers", config.num_layers},     {"hidden_size", config.hidden_size},
      {"ffn_size", config.ffn_size},         {"num_heads", config.num_heads},
      {"num_kv_heads", config.num_kv_heads}, {"head_dim", config.head_dim},
      {"vocab_size", config.vocab_size},     {"max_context", max_context}};
  for (const auto& [name, value] : positive) {
    if (value <= 0) return refuse(name, " is ", value, ", it must be at least 1");
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return refuse("num_heads ", config.num_heads, " is not a multiple of num_kv_heads ",
                  config.num_kv_heads);
  }
  if (config.rotary_dim < 0 || config.rotary_dim > config.head_dim || config.rotary_dim % 2 != 0) {
    return refuse("rotary_dim is ", config.rotary_dim, ", it must be even and in 0..head_dim ",
                  config.head_dim);
  }
  const size_t factors = config.rope_freq_factors.size();
  if (factors != 0 && factors != static_cast<size_t>(config.rotary_dim / 2)) {
    return refuse("rope_freq_factors has ", factors, " entries, rotary_dim ", config.rotary_dim,
                  " needs ", config.rotary_dim / 2);
  }
  return absl::OkStatus();
}

// The vectors of a model: small, kept in f32, read one after another.
class DecoderModel::Loader {
 public:
  Loader(Backend& backend, const WeightSource& weights, LoadProgress& progress)
      : backend_(backend), weights_(weights), progress_(progress) {}

  absl::Status Vector(const std::string& name, int32_t n, DeviceBuffer* out) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, weights_.LoadVector(name, n));
    Advance(name);
    return Upload(values, name, out);
  }

  // The three biases as the one vector that the fused projection adds.
  absl::Status Biases(const std::string& prefix, const ModelConfig& config, DeviceBuffer* out) {
    const int32_t kv = config.num_kv_heads * config.head_dim;
    const std::pair<const char*, int32_t> parts[] = {
        {"attn_q.bias", config.num_heads * config.head_dim},
        {"attn_k.bias", kv},
        {"attn_v.bias", kv}};
    std::vector<float> all;
    for (const auto& [suffix, n] : parts) {
      const std::string name = absl::StrCat(prefix, suffix);
      NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, weights_.LoadVector(name, n));
      all.insert(all.end(), values.begin(), values.end());
      Advance(name);
    }
    return Upload(all, absl::StrCat(prefix, "attn_qkv.bias"), out);
  }

  absl::Status Upload(const std::vector<float>& values, absl::string_view what, DeviceBuffer* out) {
    const int64_t size = static_cast<int64_t>(values.size() * sizeof(float));
    NIBBLE_ASSIGN_OR_RETURN(*out, backend_.Allocate(size, what));
    backend_.CopyToDevice(out->data(), values.data(), size);
    size_bytes_ += size;
    return absl::OkStatus();
  }

  int64_t size_bytes() const { return size_bytes_; }

 private:
  void Advance(const std::string& name) {
    progress_.Advance(progress_.FileBytes(name));
    progress_.Tell();
  }

  Backend& backend_;
  const WeightSource& weights_;
  LoadProgress& progress_;
  int64_t size_bytes_ = 0;
};

// Every matrix of the model and where it goes, in the order of the forward pass.
std::vector<MatrixRequest> DecoderModel::Matrices() {
  const int32_t hidden = config_.hidden_size, ffn = config_.ffn_size;
  const int32_t q = config_.num_heads * config_.head_dim;
  const int32_t kv = config_.num_kv_heads * config_.head_dim;
  std::vector<MatrixRequest> all = {{"token_embd.weight", config_.vocab_size, hidden, &embedding_}};
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    const std::string block = absl::StrCat("blk.", i, ".");
    Layer& layer = layers_[i];
    all.push_back({block + "attn_q.weight", q, hidden, &layer.q});
    all.push_back({block + "attn_k.weight", kv, hidden, &layer.k});
    all.push_back({block + "attn_v.weight", kv, hidden, &layer.v});
    all.push_back({block + "attn_output.weight", hidden, q, &layer.o});
    all.push_back({block + "ffn_gate.weight", ffn, hidden, &layer.gate});
    all.push_back({block + "ffn_up.weight", ffn, hidden, &layer.up});
    all.push_back({block + "ffn_down.weight", hidden, ffn, &layer.down});
  }
  if (!config_.tied_head) all.push_back({"output.weight", config_.vocab_size, hidden, &head_});
  return all;
}

absl::StatusOr<DecoderModel> DecoderModel::Load(Backend& backend, const ModelConfig& config,
                                                const WeightSource& weights, int32_t max_context,
                                                const LoadOptions& options) {
  NIBBLE_RETURN_IF_ERROR(CheckConfig(config, max_context));
  LoadProgress progress(weights, options.progress);
  DecoderModel model;
  model.config_ = config;
  model.layers_.resize(config.num_layers);
  NIBBLE_ASSIGN_OR_RETURN(model.matrices_,
                          LoadMatrices(backend, weights, model.Matrices(), options.packed_cache,
                                       SteadyClock(), progress));
  Loader load(backend, weights, progress);
  const int32_t hidden = config.hidden_size;
  for (int32_t i = 0; i < config.num_layers; ++i) {
    const std::string block = absl::StrCat("blk.", i, ".");
    Layer& layer = model.layers_[i];
    NIBBLE_RETURN_IF_ERROR(load.Vector(block + "attn_norm.weight", hidden, &layer.attention_norm));
    if (config.qkv_bias) NIBBLE_RETURN_IF_ERROR(load.Biases(block, config, &layer.qkv_bias));
    NIBBLE_RETURN_IF_ERROR(load.Vector(block + "ffn_norm.weight", hidden, &layer.ffn_norm));
  }
  NIBBLE_RETURN_IF_ERROR(load.Vector("output_norm.weight", hidden, &model.final_norm_));
  NIBBLE_RETURN_IF_ERROR(
      load.Upload(MakeRopeTable(config, max_context), "rope angles", &model.cos_sin_));
  model.size_bytes_ = model.matrices_.bytes + load.size_bytes();
  return model;
}

}  // namespace nibble

// DecoderModel::Load: GGUF tensor names to packed weights.

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/decoder_model.h"
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

// Reads tensors one after another, so that memory never holds two copies of more than one of them.
class DecoderModel::Loader {
 public:
  Loader(Backend& backend, const WeightSource& weights,
         const std::function<void(int64_t, int64_t)>& progress)
      : backend_(backend), weights_(weights), progress_(progress) {
    for (const TensorReport& tensor : weights.Report()) {
      file_bytes_[tensor.name] = tensor.file_bytes;
      total_bytes_ += tensor.file_bytes;
    }
  }

  absl::Status Matrix(const std::string& name, int32_t rows, int32_t cols, Weight* out) {
    NIBBLE_ASSIGN_OR_RETURN(const quant::Matrix matrix, weights_.LoadMatrix(name, rows, cols));
    absl::StatusOr<Weight> packed = backend_.Pack(matrix);
    if (!packed.ok()) {
      return absl::Status(packed.status().code(),
                          absl::StrCat("tensor '", name, "': ", packed.status().message()));
    }
    *out = *std::move(packed);
    size_bytes_ += (*out)->size_bytes();
    Advance(name);
    return absl::OkStatus();
  }

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
    const auto found = file_bytes_.find(name);
    if (found != file_bytes_.end()) done_bytes_ += found->second;
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  Backend& backend_;
  const WeightSource& weights_;
  const std::function<void(int64_t, int64_t)>& progress_;
  std::map<std::string, int64_t> file_bytes_;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
  int64_t size_bytes_ = 0;
};

absl::StatusOr<DecoderModel> DecoderModel::Load(
    Backend& backend, const ModelConfig& config, const WeightSource& weights, int32_t max_context,
    const std::function<void(int64_t, int64_t)>& progress) {
  NIBBLE_RETURN_IF_ERROR(CheckConfig(config, max_context));
  const int32_t hidden = config.hidden_size, ffn = config.ffn_size;
  const int32_t q = config.num_heads * config.head_dim;
  const int32_t kv = config.num_kv_heads * config.head_dim;
  Loader load(backend, weights, progress);
  DecoderModel model;
  model.config_ = config;
  NIBBLE_RETURN_IF_ERROR(
      load.Matrix("token_embd.weight", config.vocab_size, hidden, &model.embedding_));
  model.layers_.resize(config.num_layers);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    const std::string block = absl::StrCat("blk.", i, ".");
    Layer& layer = model.layers_[i];
    NIBBLE_RETURN_IF_ERROR(load.Vector(block + "attn_norm.weight", hidden, &layer.attention_norm));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "attn_q.weight", q, hidden, &layer.q));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "attn_k.weight", kv, hidden, &layer.k));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "attn_v.weight", kv, hidden, &layer.v));
    if (config.qkv_bias) NIBBLE_RETURN_IF_ERROR(load.Biases(block, config, &layer.qkv_bias));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "attn_output.weight", hidden, q, &layer.o));
    NIBBLE_RETURN_IF_ERROR(load.Vector(block + "ffn_norm.weight", hidden, &layer.ffn_norm));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "ffn_gate.weight", ffn, hidden, &layer.gate));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "ffn_up.weight", ffn, hidden, &layer.up));
    NIBBLE_RETURN_IF_ERROR(load.Matrix(block + "ffn_down.weight", hidden, ffn, &layer.down));
  }
  NIBBLE_RETURN_IF_ERROR(load.Vector("output_norm.weight", hidden, &model.final_norm_));
  if (!config.tied_head) {
    NIBBLE_RETURN_IF_ERROR(load.Matrix("output.weight", config.vocab_size, hidden, &model.head_));
  }
  NIBBLE_RETURN_IF_ERROR(
      load.Upload(MakeRopeTable(config, max_context), "rope angles", &model.cos_sin_));
  model.size_bytes_ = load.size_bytes();
  return model;
}

}  // namespace nibble

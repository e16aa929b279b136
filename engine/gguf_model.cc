#include "engine/gguf_model.h"

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/model_file.h"

namespace nibble {
namespace {

void AddLayer(const ModelConfig& config, int32_t layer, std::vector<TensorShape>& needed) {
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.ffn_size;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const auto add = [&](absl::string_view name, std::vector<int64_t> shape) {
    needed.push_back({absl::StrCat("blk.", layer, ".", name), std::move(shape)});
  };
  add("attn_norm.weight", {hidden});
  add("attn_q.weight", {q, hidden});
  add("attn_k.weight", {kv, hidden});
  add("attn_v.weight", {kv, hidden});
  if (config.qkv_bias) {
    add("attn_q.bias", {q});
    add("attn_k.bias", {kv});
    add("attn_v.bias", {kv});
  }
  add("attn_output.weight", {hidden, q});
  add("ffn_norm.weight", {hidden});
  add("ffn_gate.weight", {ffn, hidden});
  add("ffn_up.weight", {ffn, hidden});
  add("ffn_down.weight", {hidden, ffn});
}

absl::Status CheckTensor(const GgufFile& file, const TensorShape& needed) {
  const std::string subject = absl::StrCat(file.name(), ": tensor '", needed.name, "'");
  const std::string shape = absl::StrCat("the config needs [", absl::StrJoin(needed.shape, ", "),
                                         "]; is the file for another model?");
  const GgufTensor* tensor = file.Find(needed.name);
  if (tensor == nullptr) return absl::NotFoundError(absl::StrCat(subject, " is absent, ", shape));
  const std::vector<int64_t> found(tensor->dims.rbegin(), tensor->dims.rend());
  if (found != needed.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(subject, " is [", absl::StrJoin(found, ", "), "], ", shape));
  }
  const GgmlTypeInfo info = TypeInfo(tensor->ggml_type);
  if (!info.readable) {
    return absl::UnimplementedError(absl::StrCat(subject, " is of type ", info.name,
                                                 ", which this program does not read; quantize the "
                                                 "model to Q4_0, Q4_1, Q4_K, Q5_K, Q6_K or Q8_0"));
  }
  return absl::OkStatus();
}

// What old converters wrote and nobody reads: recomputed from the config.
bool IsIgnored(absl::string_view name) {
  return name == "rope_freqs.weight" || absl::EndsWith(name, ".attn_rot_embd") ||
         absl::EndsWith(name, ".rotary_emb.inv_freq");
}

}  // namespace

std::vector<TensorShape> NeededTensors(const ModelConfig& config) {
  std::vector<TensorShape> needed;
  needed.push_back({"token_embd.weight", {config.vocab_size, config.hidden_size}});
  for (int32_t layer = 0; layer < config.num_layers; ++layer) AddLayer(config, layer, needed);
  needed.push_back({"output_norm.weight", {config.hidden_size}});
  if (!config.tied_head)
    needed.push_back({"output.weight", {config.vocab_size, config.hidden_size}});
  return needed;
}

absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config) {
  std::set<std::string> known;
  for (TensorShape& needed : NeededTensors(config)) {
    NIBBLE_RETURN_IF_ERROR(CheckTensor(file, needed));
    known.insert(std::move(needed.name));
  }
  // A tensor nobody asked for is maths nobody would do: a bias, an adapter, an expert.
  for (const GgufTensor& tensor : file.tensors()) {
    if (known.count(tensor.name) != 0 || IsIgnored(tensor.name)) continue;
    return absl::UnimplementedError(absl::StrCat(
        file.name(), ": tensor '", tensor.name, "' has no place in a ", config.num_layers,
        "-layer ", config.architecture, " model as implemented; is the file for another model?"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file) {
  ModelConfig config;
  NIBBLE_RETURN_IF_ERROR(ReadHyperparameters(file, config));
  NIBBLE_RETURN_IF_ERROR(CheckTensors(file, config));
  return config;
}

}  // namespace nibble

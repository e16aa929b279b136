#include "tests/engine/hf_folder.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "engine/gguf_model.h"
#include "engine/model_file.h"
#include "engine/weights/hf/hf_source.h"
#include "gtest/gtest.h"

namespace nibble::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::vector<std::string> Modules(int32_t layers) {
  std::vector<std::string> modules = {"model.embed_tokens", "model.norm", "lm_head"};
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (const char* name : {"input_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                             "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      modules.push_back(absl::StrCat("model.layers.", layer, ".", name));
    }
  }
  return modules;
}

// Rows of a tensor in f32, [rows, cols] or [n, 1].
std::vector<float> Values(const WeightSource& source, const std::string& name,
                          const std::vector<int64_t>& shape) {
  const auto rows = static_cast<int32_t>(shape[0]);
  if (shape.size() == 1) return source.LoadVector(name, rows).value();
  const auto cols = static_cast<int32_t>(shape[1]);
  const quant::Matrix matrix = source.LoadMatrix(name, rows, cols).value();
  std::vector<float> values(static_cast<size_t>(rows) * cols);
  for (int32_t n = 0; n < rows; ++n) {
    quant::DequantizeRow(matrix, n, values.data() + static_cast<size_t>(n) * cols);
  }
  return values;
}

void AddTensor(const WeightSource& source, const ModelConfig& config, const TensorShape& tensor,
               const std::string& hf_name, SafetensorsWriter& writer) {
  std::vector<float> values = Values(source, tensor.name, tensor.shape);
  const bool turned = config.rope_layout == RopeLayout::kInterleaved &&
                      (tensor.name.find("attn_q.") != std::string::npos ||
                       tensor.name.find("attn_k.") != std::string::npos);
  if (turned) {
    const std::vector<float> interleaved = values;
    const int64_t cols = static_cast<int64_t>(values.size()) / tensor.shape[0];
    for (int32_t row = 0; row < tensor.shape[0]; ++row) {
      std::copy_n(interleaved.begin() + row * cols, cols,
                  values.begin() + HalfRowOf(row, config.head_dim) * cols);
    }
  }
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  writer.Add(hf_name, "F32", tensor.shape, std::move(bytes));
}

Json ConfigJson(const ModelConfig& config) {
  return {
      {"architectures", {config.architecture == "llama" ? "LlamaForCausalLM" : "Qwen2ForCausalLM"}},
      {"hidden_act", "silu"},
      {"num_hidden_layers", config.num_layers},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.ffn_size},
      {"num_attention_heads", config.num_heads},
      {"num_key_value_heads", config.num_kv_heads},
      {"max_position_embeddings", config.context_length},
      {"vocab_size", config.vocab_size},
      {"rms_norm_eps", config.rms_epsilon},
      {"rope_theta", config.rope_base},
      {"rope_scaling", nullptr},
      {"tie_word_embeddings", config.tied_head}};
}

Json TokenizerJson(const TokenizerSpec& spec) {
  Json vocab = Json::object(), added = Json::array();
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    if (spec.types[id] == TokenType::kControl) {
      added.push_back({{"id", id}, {"content", spec.tokens[id]}, {"special", true}});
    } else {
      vocab[spec.tokens[id]] = id;
    }
  }
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  return {{"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", bytes},
          {"post_processor", nullptr},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", spec.merges}}}};
}

}  // namespace

void WriteText(const fs::path& path, absl::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string HfFolder::Write(absl::string_view name) const {
  const fs::path folder =
      fs::path(::testing::TempDir()) / absl::StrCat("nibble_hf_", getpid(), "_", name);
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::vector<uint8_t> bytes = weights.Build();
  WriteText(folder / "model.safetensors",
            {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  WriteText(folder / "config.json", config.dump());
  WriteText(folder / "tokenizer.json", tokenizer.dump());
  WriteText(folder / "tokenizer_config.json", tokenizer_config.dump());
  WriteText(folder / "generation_config.json", generation_config.dump());
  return folder.string();
}

HfFolder TinyFolder(const TinyModelOptions& options) {
  const std::vector<uint8_t> bytes = TinyModel(options).Build();
  const GgufFile file = GgufFile::Parse(bytes, "m.gguf").value();
  const ModelConfig config = ReadModelConfig(file).value();
  const TokenizerSpec spec = ReadTokenizerSpec(file).value();
  const std::unique_ptr<WeightSource> source = MakeGgufSource(file);
  HfFolder folder;
  const std::vector<TensorShape> needed = NeededTensors(config);
  for (const std::string& module : Modules(config.num_layers)) {
    for (const TensorShape& tensor : needed) {
      for (const char* suffix : {".weight", ".bias"}) {
        if (tensor.name == *GgufNameOf(module) + suffix) {
          AddTensor(*source, config, tensor, module + suffix, folder.weights);
        }
      }
    }
  }
  folder.config = ConfigJson(config);
  folder.tokenizer = TokenizerJson(spec);
  folder.tokenizer_config = {{"bos_token", spec.tokens[spec.bos_id]},
                             {"eos_token", {{"content", spec.tokens[spec.eos_id]}}},
                             {"chat_template", file.GetString("tokenizer.chat_template").value()}};
  folder.generation_config = {{"eos_token_id", {spec.eos_id, kTinyEndOfText}}};
  return folder;
}

}  // namespace nibble::testing

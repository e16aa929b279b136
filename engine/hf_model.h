// A model in Hugging Face's layout: from config.json, tokenizer.json and their neighbours to the
// parts of an engine, in steps that ModelFile (model_file.h) is made of; `inspect` takes them
// apart. Architectures: LlamaForCausalLM, MistralForCausalLM without a sliding window,
// Qwen2ForCausalLM.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer_spec.h"
#include "engine/weights/hf/hf_source.h"
#include "engine/weights/hf/json.h"
#include "engine/weights/hf/model_folder.h"
#include "engine/weights/hf/quantization.h"
#include "engine/weights/hf/tensor_set.h"

namespace nibble {

inline constexpr char kHfConfig[] = "config.json";
inline constexpr size_t kMaxTokenizerJson = 64 << 20;  // bytes; the largest in use have 35 MB

// Fills `config` from config.json, as far as it gets, and returns the first error: INVALID_ARGUMENT
// for a value that does not fit, UNIMPLEMENTED for another architecture or a key whose maths we do
// not have.
absl::Status ReadHfConfig(const JsonObject& json, const std::string& name, ModelConfig& config);

// Every matrix and vector the config needs is there, of its shape, in a layout that is read, and no
// other is. Sets config.qkv_bias.
absl::Status CheckHfTensors(const HfSource& source, const std::string& name, ModelConfig& config);

// The folder's files, opened; each has been checked for itself. Immutable after Open.
class HfModel {
 public:
  // Errors of ModelFolder, JsonObject, TensorSet and ReadQuantConfig.
  static absl::StatusOr<std::unique_ptr<HfModel>> Open(const std::string& path);

  const ModelFolder& folder() const { return folder_; }
  const JsonObject& config() const { return config_; }
  const TensorSet& tensors() const { return tensors_; }
  // How `config` wants its rows of q and k. This model must outlive the source.
  std::unique_ptr<HfSource> Source(const ModelConfig& config) const;

 private:
  HfModel(ModelFolder folder, std::string config_text, JsonObject config, TensorSet tensors,
          QuantConfig quantization)
      : folder_(std::move(folder)),
        config_text_(std::move(config_text)),
        config_(std::move(config)),
        tensors_(std::move(tensors)),
        quantization_(std::move(quantization)) {}

  ModelFolder folder_;
  std::string config_text_;
  JsonObject config_;
  TensorSet tensors_;
  QuantConfig quantization_;
};

// tokenizer.json with the special tokens of tokenizer_config.json and the ends of
// generation_config.json, for a model of `vocab_size` rows; ids beyond the tokenizer's are tokens
// without text. UNIMPLEMENTED names what would give wrong ids without a word: another model than
// byte-level BPE, an unknown way to cut words, a token that strips spaces.
absl::StatusOr<TokenizerSpec> ReadHfTokenizerSpec(const ModelFolder& folder,
                                                  const JsonObject& config, int32_t vocab_size);

// The regular expression of a Split pre-tokenizer, "" for what ByteLevel does itself; absent for a
// `pre` that files in this layout are not read with.
std::optional<absl::string_view> HfSplitRegex(absl::string_view pre);

// chat_template.jinja, or tokenizer_config.json's chat_template, of several the one named default;
// absent without an error.
absl::StatusOr<std::optional<std::string>> ReadHfChatTemplate(const ModelFolder& folder);

}  // namespace nibble

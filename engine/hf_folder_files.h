// What a folder in Hugging Face's layout holds beside tensors, for a model that comes from
// anywhere: the inverse of ReadHfConfig, ReadHfTokenizerSpec and ReadHfChatTemplate (hf_model.h).
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/model_file.h"
#include "engine/text/tokenizer_spec.h"

namespace nibble {

struct HfFolderFiles {
  std::string config_json;
  std::vector<std::pair<std::string, std::string>> files;  // name and text, config.json not
};

// A folder's own files, as they are: config.json, tokenizer.json, tokenizer_config.json,
// special_tokens_map.json, generation_config.json, chat_template.jinja, those of them that are
// there. Of any other model they are made (below). Errors of ModelFile and ModelFolder.
absl::StatusOr<HfFolderFiles> HfFolderFilesOf(const ModelFile& file);

// config.json of a LlamaForCausalLM or Qwen2ForCausalLM. UNIMPLEMENTED for what that has no key
// for: RoPE's frequencies given one by one (a GGUF file's rope_freqs.weight), biases of q, k, v in
// a Llama.
absl::StatusOr<std::string> HfConfigJson(const ModelConfig& config, const TokenizerSpec& spec);

// tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json of
// byte-level BPE. UNIMPLEMENTED for SentencePiece, and for a pre-tokenizer whose regular expression
// is not known here.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> HfTokenizerFiles(
    const TokenizerSpec& spec, int32_t context_length,
    const std::optional<std::string>& chat_template);

}  // namespace nibble

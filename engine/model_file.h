// From a model file to the parts of an engine: the one place that knows both the file format's
// metadata keys and the rooms those belong to.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_spec.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/weight_source.h"

namespace nibble {

// DATA_LOSS / UNIMPLEMENTED / INVALID_ARGUMENT name the key, what it holds and what is needed.
// Bounded: layers <= 1024, vocab <= 2^21, every count checked against the tensors' shapes.
absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file);
absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(const GgufFile& file);

// A model as it lies on a disk: a GGUF file or a folder in Hugging Face's layout, told apart by
// what is in them, not by their names; or a random model (random_model.h), whose name says all
// there is. Immutable after Open and safe to share.
class ModelFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED; INVALID_ARGUMENT for a path that leads to neither, a safetensors
  // file without its folder among them; otherwise what is wrong with the file or the folder.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path);
  virtual ~ModelFile() = default;

  virtual const std::string& name() const = 0;  // the path, without a slash at the end
  // As ReadModelConfig below; a folder's as ReadHfConfig and CheckHfTensors (hf_model.h).
  virtual absl::StatusOr<ModelConfig> Config() const = 0;
  // This file must outlive the source. `config` is its own.
  virtual std::unique_ptr<WeightSource> Source(const ModelConfig& config) const = 0;
  // What the tokenizer is made from.
  virtual absl::StatusOr<TokenizerSpec> Vocabulary() const = 0;
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const;
  // Absent without an error when there is no template.
  virtual absl::StatusOr<std::optional<std::string>> ChatTemplateText() const = 0;
  // Null likewise.
  absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const Tokenizer& tokenizer) const;
  // The GGUF file that it is, or null.
  virtual const GgufFile* gguf() const { return nullptr; }
};

// Whether the path leads to a folder, which then is taken for Hugging Face's layout.
bool IsModelFolder(const std::string& path);

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file);
// Null without an error when the file has no template.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const GgufFile& file,
                                                               const Tokenizer& tokenizer);

}  // namespace nibble

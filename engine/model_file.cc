#include "engine/model_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/hf_model.h"
#include "engine/random_model.h"
#include "engine/weights/mapped_file.h"

namespace nibble {
namespace {

// The errors of text/ know no file.
absl::Status Named(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(const std::string& name,
                                                         TokenizerSpec spec) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(std::move(spec));
  if (!tokenizer.ok()) return Named(name, tokenizer.status());
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> MakeTemplate(const std::string& name,
                                                           const std::string& source,
                                                           const Tokenizer& tokenizer) {
  const auto text_of = [&](int32_t id) {
    return id < 0 ? std::string() : std::string(tokenizer.TokenBytes(id, /*with_special=*/true));
  };
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat = ChatTemplate::Create(
      source, {.bos_token = text_of(tokenizer.bos_id()), .eos_token = text_of(tokenizer.eos_id())});
  if (!chat.ok()) return Named(name, chat.status());
  return chat;
}

absl::StatusOr<std::optional<std::string>> ReadChatTemplate(const GgufFile& file) {
  constexpr absl::string_view kKey = "tokenizer.chat_template";
  if (!file.Has(kKey)) return std::optional<std::string>();
  NIBBLE_ASSIGN_OR_RETURN(std::string text, file.GetString(kKey));
  return std::optional<std::string>(std::move(text));
}

class GgufModelFile final : public ModelFile {
 public:
  explicit GgufModelFile(GgufFile file) : file_(std::move(file)) {}
  const std::string& name() const override { return file_.name(); }
  absl::StatusOr<ModelConfig> Config() const override { return ReadModelConfig(file_); }
  std::unique_ptr<WeightSource> Source(const ModelConfig&) const override {
    return MakeGgufSource(file_);
  }
  absl::StatusOr<TokenizerSpec> Vocabulary() const override { return ReadTokenizerSpec(file_); }
  absl::StatusOr<std::optional<std::string>> ChatTemplateText() const override {
    return ReadChatTemplate(file_);
  }
  const GgufFile* gguf() const override { return &file_; }

 private:
  const GgufFile file_;
};

class HfModelFile final : public ModelFile {
 public:
  explicit HfModelFile(std::unique_ptr<HfModel> model) : model_(std::move(model)) {}
  const std::string& name() const override { return model_->folder().name(); }
  absl::StatusOr<ModelConfig> Config() const override {
    ModelConfig config;
    NIBBLE_RETURN_IF_ERROR(ReadHfConfig(model_->config(), name(), config));
    NIBBLE_RETURN_IF_ERROR(CheckHfTensors(*model_->Source(config), name(), config));
    return config;
  }
  std::unique_ptr<WeightSource> Source(const ModelConfig& config) const override {
    return model_->Source(config);
  }
  absl::StatusOr<TokenizerSpec> Vocabulary() const override {
    ModelConfig config;
    NIBBLE_RETURN_IF_ERROR(ReadHfConfig(model_->config(), name(), config));
    return ReadHfTokenizerSpec(model_->folder(), model_->config(), config.vocab_size);
  }
  absl::StatusOr<std::optional<std::string>> ChatTemplateText() const override {
    return ReadHfChatTemplate(model_->folder());
  }

 private:
  const std::unique_ptr<HfModel> model_;
};

// No file at all (random_model.h).
class RandomModelFile final : public ModelFile {
 public:
  explicit RandomModelFile(RandomModel model) : model_(std::move(model)) {}
  const std::string& name() const override { return model_.name; }
  absl::StatusOr<ModelConfig> Config() const override { return model_.config; }
  std::unique_ptr<WeightSource> Source(const ModelConfig&) const override {
    return MakeRandomSource(model_);
  }
  absl::StatusOr<TokenizerSpec> Vocabulary() const override { return RandomVocabulary(model_); }
  absl::StatusOr<std::optional<std::string>> ChatTemplateText() const override {
    return std::optional<std::string>();
  }

 private:
  const RandomModel model_;
};

// A folder without config.json is no model; a GGUF file in it may be.
absl::Status NoConfig(const ModelFolder& folder, const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.path().extension() != ".gguf") continue;
    return absl::InvalidArgumentError(
        absl::StrCat(folder.name(), ": has no ", kHfConfig, "; name the .gguf file inside it"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(folder.name(), ": has no ", kHfConfig,
                   ", needed a GGUF file or a folder with config.json and safetensors"));
}

// INVALID_ARGUMENT for the beginning of a safetensors file, which is only a part of a model.
absl::Status CheckIsWhole(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const MappedFile mapping, MappedFile::Open(path));
  uint8_t head[9] = {};
  const size_t size = std::min<size_t>(sizeof(head), mapping.bytes().size());
  NIBBLE_RETURN_IF_ERROR(mapping.ReadAt(0, absl::MakeSpan(head, size)));
  if (!SafetensorsFile::Begins(absl::MakeConstSpan(head, size))) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": is a safetensors file, needed the folder it is in, with config.json"));
}

}  // namespace

bool IsModelFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path) {
  if (IsRandomModel(path)) {
    NIBBLE_ASSIGN_OR_RETURN(RandomModel model, ParseRandomModel(path));
    return std::make_unique<RandomModelFile>(std::move(model));
  }
  if (IsModelFolder(path)) {
    NIBBLE_ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(path));
    if (!folder.Has(kHfConfig)) return NoConfig(folder, path);
    NIBBLE_ASSIGN_OR_RETURN(std::unique_ptr<HfModel> model, HfModel::Open(path));
    return std::make_unique<HfModelFile>(std::move(model));
  }
  NIBBLE_RETURN_IF_ERROR(CheckIsWhole(path));
  NIBBLE_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  return std::make_unique<GgufModelFile>(std::move(file));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ModelFile::LoadTokenizer() const {
  NIBBLE_ASSIGN_OR_RETURN(TokenizerSpec spec, Vocabulary());
  return MakeTokenizer(name(), std::move(spec));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ModelFile::LoadChatTemplate(
    const Tokenizer& tokenizer) const {
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<std::string> source, ChatTemplateText());
  if (!source.has_value()) return nullptr;
  return MakeTemplate(name(), *source, tokenizer);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file) {
  NIBBLE_ASSIGN_OR_RETURN(TokenizerSpec spec, ReadTokenizerSpec(file));
  return MakeTokenizer(file.name(), std::move(spec));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const GgufFile& file,
                                                               const Tokenizer& tokenizer) {
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<std::string> source, ReadChatTemplate(file));
  if (!source.has_value()) return nullptr;
  return MakeTemplate(file.name(), *source, tokenizer);
}

}  // namespace nibble

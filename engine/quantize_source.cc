#include "engine/quantize_source.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/hash.h"
#include "engine/base/status_macros.h"
#include "engine/gguf_keys.h"
#include "engine/gguf_model.h"
#include "engine/quantize/gguf_quantizer.h"

namespace nibble {
namespace {

std::string Sha256OfText(absl::string_view text) {
  return Hex(
      Sha256(absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size())));
}

bool SaysWhatTheModelIs(const std::string& file) {
  constexpr absl::string_view kFiles[] = {"config.json",         "generation_config.json",
                                          "tokenizer.json",      "tokenizer_config.json",
                                          "chat_template.jinja", "quantize_config.json"};
  return std::find(std::begin(kFiles), std::end(kFiles), file) != std::end(kFiles) ||
         absl::EndsWith(file, ".safetensors");
}

absl::StatusOr<std::string> FolderSha256(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string file = entry.path().filename().string();
    if (SaysWhatTheModelIs(file)) files.push_back(file);
  }
  if (error) return absl::NotFoundError(absl::StrCat(folder, ": ", error.message()));
  std::sort(files.begin(), files.end());
  std::string lines;
  for (const std::string& file : files) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string digest, FileSha256(absl::StrCat(folder, "/", file)));
    absl::StrAppend(&lines, digest, "  ", file, "\n");
  }
  return Sha256OfText(lines);
}

}  // namespace

absl::StatusOr<QuantizeSource> QuantizeSource::Open(const std::string& path) {
  QuantizeSource source;
  NIBBLE_ASSIGN_OR_RETURN(source.file_, ModelFile::Open(path));
  if (const GgufFile* gguf = source.file_->gguf(); gguf != nullptr) {
    NIBBLE_RETURN_IF_ERROR(CheckWholeModel(*gguf));
    source.tensors_ = MakeSourceTensors(*gguf);
    return source;
  }
  NIBBLE_ASSIGN_OR_RETURN(const ModelConfig config, source.file_->Config());
  source.weights_ = source.file_->Source(config);
  std::vector<std::string> order;
  for (TensorShape& tensor : NeededTensors(config)) order.push_back(std::move(tensor.name));
  source.tensors_ =
      MakeSourceTensors(*source.weights_, config, source.file_->name(), order, RopeFactors(config));
  return source;
}

absl::StatusOr<GgufKeys> QuantizeSource::Keys() const {
  if (file_->gguf() != nullptr) return GgufKeys::CopyOf(*file_->gguf());
  NIBBLE_ASSIGN_OR_RETURN(const ModelConfig config, file_->Config());
  NIBBLE_ASSIGN_OR_RETURN(const TokenizerSpec spec, file_->Vocabulary());
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<std::string> chat, file_->ChatTemplateText());
  absl::StatusOr<GgufKeys> keys = GgufKeysOf(config, spec, chat);
  if (keys.ok()) return keys;
  return absl::Status(keys.status().code(),
                      absl::StrCat(file_->name(), "/", keys.status().message()));
}

absl::StatusOr<std::string> QuantizeSource::Sha256() const {
  if (file_->gguf() != nullptr) return FileSha256(file_->name());
  return IsModelFolder(file_->name()) ? FolderSha256(file_->name()) : Sha256OfText(file_->name());
}

}  // namespace nibble

// A model as `nibble quantize` takes it: a GGUF file, a folder in Hugging Face's layout or a random
// model, opened for reading its tensors one after the other.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model_file.h"
#include "engine/quantize/source_tensors.h"
#include "engine/weights/gguf_writer.h"
#include "engine/weights/weight_source.h"

namespace nibble {

class QuantizeSource {
 public:
  // Errors of ModelFile; of a folder also those of its config and tensors. A GGUF file may be of an
  // architecture that this program does not serve, and is a whole model (CheckWholeModel,
  // gguf_model.h).
  static absl::StatusOr<QuantizeSource> Open(const std::string& path);

  const ModelFile& file() const { return *file_; }
  const SourceTensors& tensors() const { return *tensors_; }
  // The model's keys, all of a GGUF file, or those of GgufKeysOf (gguf_keys.h) and its errors.
  absl::StatusOr<GgufKeys> Keys() const;
  // SHA-256, in hexadecimal: of a GGUF file's bytes; of a random model's name; of a folder that of
  // the lines that `sha256sum` prints for config.json, generation_config.json,
  // quantize_config.json, tokenizer.json, tokenizer_config.json and chat_template.jinja (those that
  // are there) and its safetensors files, in the order of their names. Reads everything once.
  absl::StatusOr<std::string> Sha256() const;

 private:
  // Order matters: what is declared later uses what is declared earlier.
  std::unique_ptr<ModelFile> file_;
  std::unique_ptr<WeightSource> weights_;  // null for a GGUF file
  std::unique_ptr<SourceTensors> tensors_;
};

}  // namespace nibble

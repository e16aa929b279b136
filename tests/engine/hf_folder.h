// Model folders in Hugging Face's layout, made in the test's temporary directory, valid or
// precisely wrong; and the tiny GGUF model of gguf_writer.h as such a folder.
#pragma once

#include <filesystem>
#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "tests/engine/weights/gguf_writer.h"
#include "tests/engine/weights/safetensors_writer.h"

namespace nibble::testing {

// Fields are public: a test makes a valid folder, spoils one thing and writes it.
struct HfFolder {
  nlohmann::ordered_json config, tokenizer, tokenizer_config, generation_config;
  SafetensorsWriter weights;

  // Into an empty folder of that name; returns its path.
  std::string Write(absl::string_view name) const;
};

// The model TinyModel(options) with its values in f32: rows of q and k in Hugging Face's order.
HfFolder TinyFolder(const TinyModelOptions& options);

void WriteText(const std::filesystem::path& path, absl::string_view text);

}  // namespace nibble::testing

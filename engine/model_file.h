// From a model file to the parts of an engine: the one place that knows both the file format's metadata keys and the
// rooms those belong to.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_spec.h"
#include "engine/weights/gguf_file.h"
#include "engine/weights/weight_source.h"

namespace nibble {

// DATA_LOSS / UNIMPLEMENTED / INVALID_ARGUMENT name the key, what it holds and what is needed. Bounded: layers <= 1024,
// vocab <= 2^21, every count checked against the tensors' shapes.
absl::StatusOr<ModelConfig> ReadModelConfig(const GgufFile& file);
absl::StatusOr<TokenizerSpec> ReadTokenizerSpec(const GgufFile& file);

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const GgufFile& file);
// Null without an error when the file has no template.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const GgufFile& file, const Tokenizer& tokenizer);

}  // namespace nibble

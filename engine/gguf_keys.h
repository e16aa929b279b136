// What a model is, as the keys of a GGUF file: the inverse of ReadModelConfig and
// ReadTokenizerSpec (model_file.h), for models that come from elsewhere.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer_spec.h"
#include "engine/weights/gguf_writer.h"

namespace nibble {

// general.*, the architecture's hyperparameters, tokenizer.ggml.* and tokenizer.chat_template, as
// llama.cpp's converter names them. What GGUF has no key for is refused where it would change the
// ids of a text or the end of a generation, UNIMPLEMENTED, naming the field of tokenizer.json or
// generation_config.json: `ignore_merges` other than is usual for the pre-tokenizer, more than one
// end of a generation beside EOS that is not known by its name. Unicode's form C is kept in
// nibble.tokenizer.nfc, which other programs do not read: they tokenize text in another form as it
// is. Llama 3's RoPE scaling is a tensor (RopeFactors), not a key.
absl::StatusOr<GgufKeys> GgufKeysOf(const ModelConfig& config, const TokenizerSpec& spec,
                                    const std::optional<std::string>& chat_template);

// rope_freqs.weight: one divisor of each frequency, [rotary_dim / 2]; empty where none is needed.
std::vector<float> RopeFactors(const ModelConfig& config);

}  // namespace nibble

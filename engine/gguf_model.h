// The metadata keys and tensor names by which a GGUF file describes a model, in the two steps that
// ReadModelConfig (model_file.h) is made of; `inspect` takes them apart to show what a broken file
// still says. Architectures: "llama" and "qwen2".
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/weights/gguf_file.h"

namespace nibble {

// A key of our own: whether text takes Unicode's form C before it is tokenized (bool).
inline constexpr char kNfcKey[] = "nibble.tokenizer.nfc";

// Fills `config` from the metadata and from which tensors exist, as far as it gets, and returns the
// first error: DATA_LOSS for a value no model has, INVALID_ARGUMENT for values that do not fit
// together, UNIMPLEMENTED for another architecture or a key whose maths we do not have. Reads
// rope_freqs.weight; no other tensor's data.
absl::Status ReadHyperparameters(const GgufFile& file, ModelConfig& config);

// Whether the file is a model and all of it, whatever its architecture: UNIMPLEMENTED for a part of
// one in several files, or another kind of file (general.type); DATA_LOSS for keys of other types.
absl::Status CheckWholeModel(const GgufFile& file);

// Every tensor the config needs is there, of its shape and of a readable type, and no other is.
// NOT_FOUND, INVALID_ARGUMENT and UNIMPLEMENTED name the tensor.
absl::Status CheckTensors(const GgufFile& file, const ModelConfig& config);

// The name and shape [out, in] (or [n]) of a tensor.
struct TensorShape {
  std::string name;
  std::vector<int64_t> shape;
};
// All that `config` needs, in the order of the forward pass. Without rope_freqs.weight.
std::vector<TensorShape> NeededTensors(const ModelConfig& config);

}  // namespace nibble

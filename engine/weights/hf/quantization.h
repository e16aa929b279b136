// What config.json says of how a checkpoint's matrices are quantized, as far as their tensors do
// not say it themselves.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/weights/hf/json.h"
#include "engine/weights/hf/model_folder.h"

namespace nibble {

enum class QuantMethod { kNone, kGptq, kAwq, kCompressedTensors, kBitsAndBytes, kFp8 };

struct QuantConfig {
  QuantMethod method = QuantMethod::kNone;
  int bits = 0;                        // GPTQ, AWQ
  bool stored_zeros_less_one = false;  // GPTQ v1
  std::string name;                    // as the file says, "gptq"
};

// From config.json's quantization_config, or else quantize_config.json (GPTQ's old place).
// UNIMPLEMENTED names the method, or the variant of it, that is not read: another packing, a
// transform of the activations, sparsity, blocks of another size. INVALID_ARGUMENT as JsonObject.
absl::StatusOr<QuantConfig> ReadQuantConfig(const JsonObject& config, const ModelFolder& folder);
// The same from the object itself.
absl::StatusOr<QuantConfig> ReadQuantConfig(const JsonObject& quantization);

}  // namespace nibble

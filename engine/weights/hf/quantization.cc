#include "engine/weights/hf/quantization.h"

#include <initializer_list>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

// `key` is one of `known`, or absent and then what `absent` says.
absl::Status CheckOneOf(const JsonObject& json, absl::string_view key, absl::string_view absent,
                        std::initializer_list<absl::string_view> known) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string found, json.String(key, std::string(absent)));
  std::string list;
  for (const absl::string_view word : known) {
    if (absl::AsciiStrToLower(found) == word) return absl::OkStatus();
    absl::StrAppend(&list, list.empty() ? "" : ", ", word);
  }
  return json.NotImplemented(key, absl::StrCat("which is not implemented, these are: ", list));
}

absl::Status ReadGptq(const JsonObject& json, QuantConfig& config) {
  NIBBLE_ASSIGN_OR_RETURN(const int64_t bits, json.Int("bits", 1, 32));
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return json.NotImplemented("bits", "which is not implemented, these are: 2, 3, 4, 8");
  }
  config.bits = static_cast<int>(bits);
  const char* key = json.Has("checkpoint_format") ? "checkpoint_format" : "format";
  NIBBLE_RETURN_IF_ERROR(CheckOneOf(json, key, "gptq", {"gptq", "gptq_v2"}));
  NIBBLE_ASSIGN_OR_RETURN(const std::string format, json.String(key, "gptq"));
  config.stored_zeros_less_one = absl::AsciiStrToLower(format) == "gptq";
  NIBBLE_RETURN_IF_ERROR(CheckOneOf(json, "pack_dtype", "int32", {"int32"}));
  NIBBLE_ASSIGN_OR_RETURN(const bool marlin, json.Bool("is_marlin_format", false));
  if (marlin) return json.NotImplemented("is_marlin_format", "a packing that is not implemented");
  return absl::OkStatus();
}

absl::Status ReadAwq(const JsonObject& json, QuantConfig& config) {
  const char* key = json.Has("bits") ? "bits" : "w_bit";
  NIBBLE_ASSIGN_OR_RETURN(const int64_t bits, json.Int(key, 1, 32, 4));
  if (bits != 4) return json.NotImplemented(key, "which is not implemented for AWQ, 4 is");
  config.bits = 4;
  return CheckOneOf(json, "version", "gemm", {"gemm"});
}

// Formats of matrices whose tensors describe themselves (compressed_tensors.cc).
absl::Status CheckFormat(const JsonObject& json) {
  return CheckOneOf(json, "format", "dense",
                    {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized",
                     "mixed-precision", "dense"});
}

absl::Status CheckGroup(const JsonObject& group) {
  NIBBLE_RETURN_IF_ERROR(CheckFormat(group));
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject weights, group.Object("weights"));
  if (!weights.Has("block_structure")) return absl::OkStatus();
  if (weights.IsArray("block_structure")) {
    NIBBLE_ASSIGN_OR_RETURN(const std::vector<int64_t> block, weights.Ints("block_structure"));
    if (block == std::vector<int64_t>{128, 128}) return absl::OkStatus();
  }
  return weights.NotImplemented("block_structure", "which is not implemented, [128, 128] is");
}

absl::Status ReadCompressedTensors(const JsonObject& json) {
  NIBBLE_RETURN_IF_ERROR(CheckFormat(json));
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject transform, json.Object("transform_config"));
  if (!transform.empty()) {
    return json.NotImplemented("transform_config",
                               "transforms of activations, which are not implemented");
  }
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject sparsity, json.Object("sparsity_config"));
  if (sparsity.Has("format")) {
    NIBBLE_RETURN_IF_ERROR(CheckOneOf(sparsity, "format", "dense", {"dense"}));
  }
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject groups, json.Object("config_groups"));
  for (const std::string& name : groups.Keys()) {
    if (!groups.IsObject(name)) continue;  // the name of a preset
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject group, groups.Object(name));
    NIBBLE_RETURN_IF_ERROR(CheckGroup(group));
  }
  return absl::OkStatus();
}

absl::Status ReadFp8(const JsonObject& json) {
  NIBBLE_RETURN_IF_ERROR(CheckOneOf(json, "fmt", "e4m3", {"e4m3", "e5m2"}));
  NIBBLE_RETURN_IF_ERROR(CheckOneOf(json, "activation_scheme", "dynamic", {"dynamic", "static"}));
  if (!json.Has("weight_block_size")) return absl::OkStatus();
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<int64_t> block, json.Ints("weight_block_size"));
  if (block == std::vector<int64_t>{128, 128}) return absl::OkStatus();
  return json.NotImplemented("weight_block_size", "which is not implemented, [128, 128] is");
}

}  // namespace

absl::StatusOr<QuantConfig> ReadQuantConfig(const JsonObject& quantization) {
  QuantConfig config;
  // Old files of GPTQ's own place say no method.
  NIBBLE_ASSIGN_OR_RETURN(config.name, quantization.String("quant_method", "gptq"));
  if (config.name == "gptq") {
    config.method = QuantMethod::kGptq;
    NIBBLE_RETURN_IF_ERROR(ReadGptq(quantization, config));
  } else if (config.name == "awq") {
    config.method = QuantMethod::kAwq;
    NIBBLE_RETURN_IF_ERROR(ReadAwq(quantization, config));
  } else if (config.name == "compressed-tensors") {
    config.method = QuantMethod::kCompressedTensors;
    NIBBLE_RETURN_IF_ERROR(ReadCompressedTensors(quantization));
  } else if (config.name == "bitsandbytes") {
    config.method = QuantMethod::kBitsAndBytes;  // each matrix carries its own description
  } else if (config.name == "fp8") {
    config.method = QuantMethod::kFp8;
    NIBBLE_RETURN_IF_ERROR(ReadFp8(quantization));
  } else {
    return quantization.NotImplemented("quant_method",
                                       "which is not implemented, these are: gptq, awq, "
                                       "compressed-tensors, bitsandbytes, fp8");
  }
  return config;
}

absl::StatusOr<QuantConfig> ReadQuantConfig(const JsonObject& config, const ModelFolder& folder) {
  if (config.Has("quantization_config")) {
    NIBBLE_ASSIGN_OR_RETURN(const JsonObject json, config.Object("quantization_config"));
    return ReadQuantConfig(json);
  }
  constexpr char kOldPlace[] = "quantize_config.json";
  if (!folder.Has(kOldPlace)) return QuantConfig();
  NIBBLE_ASSIGN_OR_RETURN(const JsonObject json, folder.ReadJson(kOldPlace, {}));
  return ReadQuantConfig(json);
}

}  // namespace nibble

// The folder that hf_folder_fuzz spoils, and which of its files.
#pragma once

#include <string>
#include <vector>

#include "engine/weights/hf/model_folder.h"
#include "tests/engine/hf_folder.h"

namespace nibble::testing {

inline constexpr char kFuzzShard[] = "a.safetensors";

struct FuzzFile {
  std::string name;
  std::string valid;
  bool is_index = false;  // of the folder in shards
};

// One layer of 32, with the parts of config.json that say how matrices are quantized.
inline HfFolder FuzzFolder() {
  TinyModelOptions options;
  options.layers = 1;
  options.hidden = options.ffn = 32;
  options.heads = 2;
  options.kv_heads = 1;
  return TinyFolder(options);
}

// In the order of hf_folder_fuzz's first byte.
inline std::vector<FuzzFile> FuzzFiles() {
  const HfFolder folder = FuzzFolder();
  return {
      {"config.json", folder.config.dump()},
      {"tokenizer_config.json", folder.tokenizer_config.dump()},
      {"generation_config.json", folder.generation_config.dump()},
      {"tokenizer.json", folder.tokenizer.dump()},
      {"model.safetensors.index.json",
       R"({"metadata":{"total_size":4},"weight_map":{"model.norm.weight":"a.safetensors"}})", true},
      {kProvenanceJson, R"({"nibble.quantize.source_sha256":"5ce","nibble.quantize.layout":"awq",)"
                        R"("nibble.quantize.tensors":["a"],"nibble.quantize.tensor_errors":[0.5],)"
                        R"("nibble.quantize.eval.kl":0.25,"nibble.quantize.eval.tokens":3})"}};
}

}  // namespace nibble::testing

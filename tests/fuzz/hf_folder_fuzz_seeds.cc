// Writes the first corpus of hf_folder_fuzz into the directory named: each of a folder's JSON files
// as it should be, and config.json with every way to be quantized that is read.
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/fuzz/hf_folder_files.h"

namespace nibble::testing {
namespace {

constexpr const char* kQuantizations[] = {
    R"({"quant_method":"gptq","bits":4,"group_size":128,"desc_act":true,"sym":true,"checkpoint_format":"gptq_v2"})",
    R"({"quant_method":"awq","bits":4,"group_size":64,"version":"gemm","zero_point":true})",
    R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"targets":["Linear"],)"
    R"("weights":{"num_bits":4,"type":"int","strategy":"group","group_size":128,"symmetric":true}}},"ignore":["lm_head"]})",
    R"({"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true})",
    R"({"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[128,128]})",
};

bool Write(const std::string& path, char which, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << which << text;
  return file.good();
}

bool WriteSeeds(const std::string& directory) {
  bool ok = true;
  const std::vector<FuzzFile> files = FuzzFiles();
  for (size_t i = 0; i < files.size(); ++i) {
    ok = ok && Write(absl::StrCat(directory, "/", files[i].name), static_cast<char>('0' + i),
                     files[i].valid);
  }
  nlohmann::ordered_json config = FuzzFolder().config;
  int number = 0;
  for (const char* text : kQuantizations) {
    config["quantization_config"] = nlohmann::ordered_json::parse(text);
    ok = ok && Write(absl::StrCat(directory, "/quantized", number), '0', config.dump());
    ok = ok && Write(absl::StrCat(directory, "/quantization", number), '0', text);
    ++number;
  }
  return ok;
}

}  // namespace
}  // namespace nibble::testing

int main(int argc, char** argv) {
  if (argc != 2 || !nibble::testing::WriteSeeds(argv[1])) {
    std::fprintf(stderr, "usage: hf_folder_fuzz_seeds DIRECTORY (which must exist)\n");
    return 2;
  }
  return 0;
}

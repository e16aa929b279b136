// Writes the first corpus of gguf_fuzz: small valid models of each kind, into the directory named.
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/engine/weights/gguf_writer.h"

namespace nibble::testing {
namespace {

bool Write(const std::string& path, const std::vector<uint8_t>& bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return false;
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  return std::fclose(file) == 0 && written;
}

// Blocks of every type, no model: small enough that mutations reach each of them.
GgufWriter EveryType() {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  for (const int32_t type : {0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30}) {
    const auto ggml_type = static_cast<GgmlType>(type);
    writer.Add(absl::StrCat("t", type), {256, 1}, ggml_type, RandomBlocks(ggml_type, 256, 1, 1.0f));
  }
  return writer;
}

bool WriteSeeds(const std::string& directory) {
  bool ok = Write(directory + "/types.gguf", EveryType().Build());
  for (const char* architecture : {"llama", "qwen2"}) {
    TinyModelOptions options;
    options.architecture = architecture;
    options.layers = 1;
    options.hidden = options.ffn = 32;
    options.heads = 2;
    options.kv_heads = 1;
    ok = ok &&
         Write(absl::StrCat(directory, "/", architecture, ".gguf"), TinyModel(options).Build());
  }
  return ok;
}

}  // namespace
}  // namespace nibble::testing

int main(int argc, char** argv) {
  if (argc != 2 || !nibble::testing::WriteSeeds(argv[1])) {
    std::fprintf(stderr, "usage: gguf_fuzz_seeds DIRECTORY (which must exist)\n");
    return 2;
  }
  return 0;
}

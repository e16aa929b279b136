// Prints what llama.cpp's tokenizer makes of texts: the oracle of engine/text. Built and run by
// record_ids.py.
//   llama_tokenize VOCAB.gguf PARSE_SPECIAL < texts.bin
// stdin: per text a little-endian uint32 length and the bytes. stdout: one line of space-separated
// ids a text.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "llama.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  llama_model* model = llama_model_load_from_file(argv[1], params);
  if (model == nullptr) return 1;
  const llama_vocab* vocab = llama_model_get_vocab(model);
  const bool parse_special = std::atoi(argv[2]) != 0;
  uint32_t size = 0;
  while (std::fread(&size, sizeof size, 1, stdin) == 1) {
    std::string text(size, '\0');
    if (std::fread(text.data(), 1, size, stdin) != size) return 1;
    std::vector<llama_token> ids(size + 16);
    const int n =
        llama_tokenize(vocab, text.data(), size, ids.data(), ids.size(), false, parse_special);
    for (int i = 0; i < n; ++i) std::printf(i ? " %d" : "%d", ids[i]);
    std::printf("\n");
  }
  llama_model_free(model);
}
